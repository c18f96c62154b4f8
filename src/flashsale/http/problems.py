"""What HTTP makes of an error: RFC 9457 problem documents. The only place with status codes of errors."""

from __future__ import annotations

from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import msgspec
import structlog
from litestar import Request, Response
from litestar.exceptions import HTTPException, ValidationException

from flashsale.domain import errors

if TYPE_CHECKING:
    from litestar.types import Send

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
    errors.KeyReused: HTTPStatus.UNPROCESSABLE_ENTITY,
    errors.RateLimited: HTTPStatus.TOO_MANY_REQUESTS,
    errors.Unavailable: HTTPStatus.SERVICE_UNAVAILABLE,
}
"""Status by error class; a class that is not named has its nearest base's."""

CODES = {
    HTTPStatus.BAD_REQUEST: "invalid_request",
    HTTPStatus.UNAUTHORIZED: "unauthenticated",
    HTTPStatus.FORBIDDEN: "forbidden",
    HTTPStatus.NOT_FOUND: "no_such_path",
    HTTPStatus.METHOD_NOT_ALLOWED: "method_not_allowed",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "body_too_large",
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE: "unsupported_media_type",
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE: "head_too_large",
}
"""Codes of what Litestar, or the connection, refuses before a use case sees it."""

Headers = list[tuple[bytes, bytes]]


class BodyTooLarge(errors.FlashSaleError):
    """The request body is longer than `http.body_bytes_max`."""

    code = "body_too_large"


STATUS[BodyTooLarge] = HTTPStatus.REQUEST_ENTITY_TOO_LARGE


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """A rendered problem document."""

    status: int
    code: str
    body: bytes
    headers: Headers = field(default_factory=list)

    async def send(self, send: Send) -> None:
        """Answer with it."""
        await send(
            {
                "type": "http.response.start",
                "status": self.status,
                "headers": [
                    (b"content-type", b"application/problem+json"),
                    (b"content-length", b"%d" % len(self.body)),
                    *self.headers,
                ],
            }
        )
        await send({"type": "http.response.body", "body": self.body, "more_body": False})


def _render(status: HTTPStatus, code: str, detail: str, headers: Headers, **extra: object) -> Problem:
    document = {
        "type": f"/docs/problems#{code}",
        "title": status.phrase,
        "status": status.value,
        "detail": detail,
        "code": code,
        **extra,
    }
    return Problem(status=status.value, code=code, body=msgspec.json.encode(document), headers=headers)


def problem_of(error: errors.FlashSaleError) -> Problem:
    """Render a domain error."""
    status = next((STATUS[base] for base in type(error).__mro__ if base in STATUS), HTTPStatus.INTERNAL_SERVER_ERROR)
    headers: Headers = []
    extra: dict[str, Any] = {}
    if isinstance(error, errors.InvalidInput):
        extra["field"] = error.field
    elif isinstance(error, errors.Unauthenticated):
        headers.append((b"www-authenticate", b"Bearer"))
    elif isinstance(error, errors.RateLimited):
        policy = b'"buys";q=%d;w=%d' % (error.limit, error.window_s)
        headers += [
            (b"retry-after", b"%d" % error.retry_after_s),
            (b"ratelimit-policy", policy),
            (b"ratelimit", b'"buys";r=0;t=%d' % error.retry_after_s),
        ]
    elif isinstance(error, errors.Unavailable):
        headers.append((b"retry-after", b"%d" % error.retry_after_s))
    return _render(status, error.code, error.detail, headers, **extra)


SOLD_OUT = problem_of(errors.SoldOut())
"""Rendered once: nearly every answer of a flash sale."""

MALFORMED = _render(HTTPStatus.BAD_REQUEST, CODES[HTTPStatus.BAD_REQUEST], "This is no HTTP request.", [])

HEAD_TOO_LARGE = _render(
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
    CODES[HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE],
    "The request line and the headers are too long.",
    [],
)

INTERNAL = _render(HTTPStatus.INTERNAL_SERVER_ERROR, "internal", "Something went wrong here; try again.", [])


def domain_error_handler(_: Request[Any, Any, Any], error: errors.FlashSaleError) -> Response[bytes]:
    """Litestar's handler of domain errors."""
    return _response(problem_of(error))


def http_error_handler(_: Request[Any, Any, Any], error: HTTPException) -> Response[bytes]:
    """Litestar's handler of what it refuses by itself."""
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
    return _response(_render(status, CODES.get(status, "refused"), detail, headers, **extra))


def unexpected_error_handler(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    """Litestar's handler of everything else: logged here, and nothing said of it."""
    log.error("request.failed", path=request.scope.get("path_template"), exc_info=error)
    return _response(INTERNAL)


def _field(item: dict[str, Any]) -> dict[str, str]:
    """Name a field as the caller sent it: Litestar gives Python's name of a parameter, and calls the body `data`."""
    key, message = str(item.get("key", "")), str(item.get("message", ""))
    first, *rest = key.split("_")
    name = "body" if key == "data" else first + "".join(part.capitalize() for part in rest)
    return {"field": name, "problem": "is missing" if message == repr(key) else message}


def _response(problem: Problem) -> Response[bytes]:
    return Response(
        problem.body,
        status_code=problem.status,
        media_type="application/problem+json",
        headers={name.decode(): value.decode() for name, value in problem.headers},
    )
