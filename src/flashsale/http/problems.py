"""What HTTP makes of an error: RFC 9457 problem documents. The only place with status codes of errors."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import msgspec
import structlog
from litestar import Request, Response
from litestar.exceptions import HTTPException, ValidationException

from flashsale.domain import errors, payment_errors
from flashsale.http import limits
from flashsale.http.bodies import WrongMediaType
from flashsale.http.cells import as_of_cell
from flashsale.http.messages import NOSNIFF, rendered

if TYPE_CHECKING:
    from flashsale.http.messages import Answer, Headers

log = structlog.get_logger(__name__)

STATUS: dict[type[errors.FlashSaleError], HTTPStatus] = {
    errors.InvalidInput: HTTPStatus.BAD_REQUEST,
    errors.Unauthenticated: HTTPStatus.UNAUTHORIZED,
    errors.Forbidden: HTTPStatus.FORBIDDEN,
    errors.NotFound: HTTPStatus.NOT_FOUND,
    errors.EmailTaken: HTTPStatus.CONFLICT,
    errors.Refused: HTTPStatus.CONFLICT,
    errors.StateForbids: HTTPStatus.CONFLICT,
    errors.AllotmentTooSmall: HTTPStatus.CONFLICT,
    errors.ProductArchived: HTTPStatus.CONFLICT,
    errors.ProductOpen: HTTPStatus.CONFLICT,
    payment_errors.RefundTooLarge: HTTPStatus.CONFLICT,
    payment_errors.RefundUnderWay: HTTPStatus.CONFLICT,
    payment_errors.OrderDisputed: HTTPStatus.CONFLICT,
    payment_errors.RefundNotOffered: HTTPStatus.CONFLICT,
    payment_errors.RefundEnded: HTTPStatus.CONFLICT,
    payment_errors.RefundBegun: HTTPStatus.CONFLICT,
    payment_errors.PaymentDiffers: HTTPStatus.CONFLICT,
    payment_errors.RecordedOtherwise: HTTPStatus.CONFLICT,
    payment_errors.ReferenceUsed: HTTPStatus.CONFLICT,
    payment_errors.PaidElsewhere: HTTPStatus.CONFLICT,
    errors.OpenOrders: HTTPStatus.CONFLICT,
    errors.SaleOpen: HTTPStatus.CONFLICT,
    errors.StaleChange: HTTPStatus.PRECONDITION_FAILED,
    payment_errors.NotSupported: HTTPStatus.CONFLICT,
    payment_errors.WebhookRefused: HTTPStatus.BAD_REQUEST,
    errors.OtherCell: HTTPStatus.MISDIRECTED_REQUEST,
    errors.KeyReused: HTTPStatus.UNPROCESSABLE_ENTITY,
    errors.RateLimited: HTTPStatus.TOO_MANY_REQUESTS,
    errors.TooManyLogins: HTTPStatus.TOO_MANY_REQUESTS,
    errors.Unavailable: HTTPStatus.SERVICE_UNAVAILABLE,
}
"""Status by error class; a class that is not named has its nearest base's."""

REALM = b'Bearer realm="flashsale"'

CODES = {
    HTTPStatus.BAD_REQUEST: "invalid_request",
    HTTPStatus.UNAUTHORIZED: "unauthenticated",
    HTTPStatus.FORBIDDEN: "forbidden",
    HTTPStatus.NOT_FOUND: "no_such_path",
    HTTPStatus.METHOD_NOT_ALLOWED: "method_not_allowed",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "body_too_large",
    HTTPStatus.REQUEST_URI_TOO_LONG: "target_too_long",
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE: "unsupported_media_type",
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE: "head_too_large",
    HTTPStatus.REQUEST_TIMEOUT: "too_slow",
    HTTPStatus.INTERNAL_SERVER_ERROR: "internal",
}
"""Codes of requests that Litestar or the connection refuses before a use case."""

PAGES = "/problems/"
"""Where each code has a page."""

PROBLEM_JSON = b"application/problem+json"


STATUS[WrongMediaType] = HTTPStatus.UNSUPPORTED_MEDIA_TYPE


def problem(status: HTTPStatus, code: str, detail: str, headers: Headers, **extra: object) -> Answer:
    """Render a problem document."""
    document = {
        "type": f"{PAGES}{code}",
        "title": status.phrase,
        "status": status.value,
        "detail": detail,
        "code": code,
        **extra,
    }
    return rendered(status.value, msgspec.json.encode(document), *headers, media_type=PROBLEM_JSON)


def problem_of(error: errors.FlashSaleError, **more: object) -> Answer:
    """Render a domain error; `more` are further fields."""
    status = next((STATUS[base] for base in type(error).__mro__ if base in STATUS), HTTPStatus.INTERNAL_SERVER_ERROR)
    headers: Headers = []
    extra: dict[str, Any] = dict(more)
    challenge = _challenge(error)
    if challenge is not None:
        headers.append((b"www-authenticate", challenge))
    if isinstance(error, errors.InvalidInput):
        extra["field"] = error.field
    elif isinstance(error, errors.OtherCell):
        extra["cell"] = error.cell
    elif isinstance(error, errors.SaleNotStarted):
        extra["startsAt"] = error.starts_at
    elif isinstance(error, errors.SaleMoved):
        extra["movedTo"] = error.moved_to
    elif isinstance(error, errors.PriceChanged):
        extra |= {"price": error.price, "currency": error.currency}
    elif isinstance(error, errors.CoolingDown):
        extra["endsAt"] = error.ends_at
    elif isinstance(error, errors.RateLimited):
        headers += [
            (b"retry-after", b"%d" % error.retry_after_s),
            (b"ratelimit-policy", limits.policy(error.policy, error.limit, error.window_s)),
            (b"ratelimit", limits.service(error.policy, 0, error.retry_after_s)),
        ]
    elif isinstance(error, errors.Unavailable | errors.TooManyLogins):
        headers.append((b"retry-after", b"%d" % error.retry_after_s))
    return problem(status, error.code, error.detail, headers, **extra)


def _challenge(error: errors.FlashSaleError) -> bytes | None:
    """Say which credentials are asked for, and what is wrong with those that were sent, as RFC 6750 does."""
    if isinstance(error, errors.Unauthenticated):
        code = "invalid_token" if error.refused else ""
    elif isinstance(error, errors.Forbidden):
        code = "insufficient_scope"
    elif isinstance(error, errors.InvalidInput) and error.field == "Authorization":
        code = "invalid_request"
    else:
        return None
    return REALM + (f', error="{code}", error_description="{error.detail}"'.encode("ascii") if code else b"")


SOLD_OUT = problem_of(errors.SoldOut())
"""Rendered once: nearly every answer of a flash sale."""

MALFORMED = problem(HTTPStatus.BAD_REQUEST, CODES[HTTPStatus.BAD_REQUEST], "This is no HTTP request.", [])

HEAD_TOO_LARGE = problem(
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
    CODES[HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE],
    "The request line and the headers are too long.",
    [],
)

TARGET_TOO_LONG = problem(
    HTTPStatus.REQUEST_URI_TOO_LONG, CODES[HTTPStatus.REQUEST_URI_TOO_LONG], "The request line is too long.", []
)

BODY_TOO_LARGE = problem(
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE, CODES[HTTPStatus.REQUEST_ENTITY_TOO_LARGE], "The body is too long.", []
)

TOO_SLOW = problem(
    HTTPStatus.REQUEST_TIMEOUT, CODES[HTTPStatus.REQUEST_TIMEOUT], "The request did not arrive in time.", []
)

FULL = problem_of(errors.Unavailable("This process holds as many connections as it may; try again."))


def method_not_allowed(allowed: bytes) -> Answer:
    """Refuse a method; `allowed` names the methods of the path."""
    status = HTTPStatus.METHOD_NOT_ALLOWED
    return problem(status, CODES[status], "This path takes another method; see Allow.", [(b"allow", allowed)])


NO_SUCH_PATH = problem(HTTPStatus.NOT_FOUND, CODES[HTTPStatus.NOT_FOUND], "Not Found", [])

INTERNAL = problem(HTTPStatus.INTERNAL_SERVER_ERROR, "internal", "Something went wrong here; try again.", [])


def domain_error_handler(request: Request[Any, Any, Any], error: errors.FlashSaleError) -> Response[bytes]:
    """Litestar's handler of domain errors."""
    return as_response(problem_of(as_of_cell(request.app.state["cells"], error, request.scope["path"])))


def http_error_handler(_: Request[Any, Any, Any], error: HTTPException) -> Response[bytes]:
    """Litestar's handler of its own refusals."""
    status = HTTPStatus(error.status_code)
    extra: dict[str, object] = {}
    detail = status.phrase
    if isinstance(error, ValidationException) and isinstance(error.extra, list):
        fields = [_field(item) for item in error.extra if isinstance(item, dict)]
        extra["errors"] = fields
        detail = "; ".join(f"{item['field']}: {item['problem']}" for item in fields) or detail
    elif status is HTTPStatus.BAD_REQUEST:
        detail = "The body is not what this call takes; see /schema."
    headers: Headers = [
        (name.encode(), value.encode()) for name, value in (error.headers or {}).items() if name.lower() == "allow"
    ]
    return as_response(problem(status, CODES.get(status, "refused"), detail, headers, **extra))


def unexpected_error_handler(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    """Litestar's handler of all other errors: logs the error and hides it from the client."""
    log.error("request.failed", path=request.scope.get("path_template"), exc_info=error)
    return as_response(INTERNAL)


def _field(item: dict[str, Any]) -> dict[str, str]:
    """Name a field as the caller sent it: Litestar gives Python's name of a parameter, and calls the body `data`."""
    key, message = str(item.get("key", "")), str(item.get("message", ""))
    first, *rest = key.split("_")
    name = "body" if key == "data" else first + "".join(part.capitalize() for part in rest)
    return {"field": name, "problem": "is missing" if message == repr(key) else message}


def as_response(answer: Answer) -> Response[bytes]:
    """Return an answer to Litestar."""
    # The edge adds what every answer of Litestar has.
    headers = {name.decode(): value.decode() for name, value in answer.headers if (name, value) != NOSNIFF}
    return Response(answer.body, status_code=answer.status, headers=headers)
