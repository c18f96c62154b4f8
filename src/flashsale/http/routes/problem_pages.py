"""The pages that problems lead to: what each code means, and what to do."""

from __future__ import annotations

import html
from http import HTTPStatus
from typing import TYPE_CHECKING

from flashsale.http.messages import rendered
from flashsale.http.operations import Given, Operation
from flashsale.http.problems import NO_SUCH_PATH, PAGES
from flashsale.http.routing import Direct

if TYPE_CHECKING:
    from flashsale.http.messages import Answer, Request

MEANINGS: dict[str, tuple[int, str, str]] = {
    "invalid_input": (
        400,
        "a field, or the body as a whole, does not hold what it must; nothing was changed",
        "correct it",
    ),
    "invalid_request": (
        400,
        "the body is not what the call takes (administration; `errors` names the fields), or this is no HTTP",
        "see `/schema`",
    ),
    "unauthenticated": (401, "no token, or one that does not hold", "log in"),
    "bad_credentials": (401, "email or password is wrong", "try again"),
    "forbidden": (403, "administrators only", "-"),
    "not_found": (404, "no such thing", "-"),
    "product_not_found": (404, "no product has this id", "-"),
    "order_not_found": (404, "you have no order with this id", "-"),
    "no_such_path": (404, "no call has this path", "see `/schema`"),
    "method_not_allowed": (405, "the path takes another method", "see `Allow`"),
    "sold_out": (
        409,
        "fewer units were free than you asked for; while the last units are being decided on, the answer is `unavailable`",
        "units that come back are sold again",
    ),
    "limit_reached": (409, "your orders hold as many units as one buyer may have", "-"),
    "not_on_sale": (409, "the sale is not open", "-"),
    "sale_not_started": (409, "the sale window has not opened", "come back at `startsAt`"),
    "sale_ended": (409, "the sale window has closed", "-"),
    "sale_paused": (409, "an administrator paused the sale", "watch the stock"),
    "email_taken": (409, "an account with this email exists", "log in"),
    "order_state_forbids": (409, "the order's state forbids it", "look at the order"),
    "allotment_below_claimed": (409, "orders hold more units than the new allotment", "name a larger one"),
    "stale": (412, "somebody changed the product after you read it", "read it again"),
    "too_slow": (
        408,
        "the request did not arrive within `FLASHSALE_HTTP__REQUEST_TIMEOUT_S`; the connection is closed",
        "send it again",
    ),
    "body_too_large": (413, "the body is longer than `FLASHSALE_HTTP__BODY_BYTES_MAX`", "-"),
    "unsupported_media_type": (415, "the body's type is not taken", "send JSON"),
    "idempotency_key_reused": (422, "the key belongs to an accepted request with another body", "send a new key"),
    "rate_limited": (429, "more requests than allowed", "wait for `Retry-After`"),
    "head_too_large": (
        431,
        "request line and headers are longer than `FLASHSALE_HTTP__HEAD_BYTES_MAX`; the connection is closed",
        "send less",
    ),
    "unavailable": (
        503,
        "a queue is full, a server is away, the last units are being decided on, or another request under your key is; nothing was refused",
        "send the same request again, under the same key",
    ),
    "other_schema": (
        503,
        "the database was not migrated to what this release needs",
        "send the same request later; who runs it: `alembic upgrade head`",
    ),
    "not_ready": (
        503,
        "`/health/ready`: this process cannot serve; `problems` says what is wrong",
        "what `problems` says",
    ),
    "internal": (500, "a defect; it is logged", "tell us"),
}
"""By code: status, meaning, what to do, as in docs/reference/problems.md."""

PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{code}</title>
<h1>{code}</h1>
<p>Status {status}: {meaning}.</p>
<p>What to do: {advice}.</p>
</html>
"""

SHOW = Operation(
    name="explainProblem",
    summary="What a problem means",
    description="Show what a problem code means and what to do: `type` of each problem document leads here.",
    tag="reference",
    gives=(
        Given(
            status=HTTPStatus.OK,
            description="A page for people.",
            texts={"text/html": "<!doctype html>\n<title>sold_out</title>\n"},
            headers=("Content-Security-Policy",),
        ),
    ),
)


async def page(request: Request) -> Answer:
    """Show what a code means."""
    code = request.path.removeprefix(PAGES).rstrip("/")
    known = MEANINGS.get(code)
    if known is None:
        return NO_SUCH_PATH
    status, meaning, advice = (html.escape(str(part)) for part in known)
    shown = PAGE.format(code=code, status=status, meaning=meaning.replace("`", ""), advice=advice.replace("`", ""))
    policy = (b"content-security-policy", b"default-src 'none'")
    return rendered(HTTPStatus.OK, shown.encode(), policy, media_type=b"text/html; charset=utf-8")


ROUTES = [Direct(template=f"{PAGES}{{code}}", method="GET", serve=page, operation=SHOW)]
