"""The pages at the `type` URL of each problem: the meaning of the code, and what to do."""

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
        "a field, or the whole body, has an invalid value; nothing was changed",
        "correct the field that `field` names",
    ),
    "invalid_request": (
        400,
        "the body does not match the schema (administration; `errors` names the fields), or the bytes are not an HTTP request",
        "see `/schema`",
    ),
    "webhook_refused": (
        400,
        "the event is not signed with a secret of this shop, is too old, or cannot be read; nothing was stored",
        "compare the secret of the provider's endpoint with the setting",
    ),
    "unauthenticated": (401, "the token is missing, invalid or expired", "log in"),
    "bad_credentials": (401, "email or password is wrong", "try again"),
    "forbidden": (
        403,
        "this call needs another role; `detail` names the roles",
        "log in with an account that has one of these roles",
    ),
    "not_found": (404, "the object does not exist", "-"),
    "product_not_found": (404, "no product has this id", "-"),
    "buyer_not_found": (404, "no account of a buyer has this id", "find the account by its address"),
    "order_not_found": (404, "you have no order with this id", "-"),
    "order_archived": (
        404,
        "the order was archived: its rows left the database for files",
        "look into the files, where the detail says",
    ),
    "refund_not_found": (404, "the order has no refund with this number", "look at the order's refunds"),
    "provider_not_found": (
        404,
        "a webhook came for a payment provider that this shop does not have, or that sends none",
        "correct the URL of the endpoint at the provider",
    ),
    "no_such_path": (404, "no call has this path", "see `/schema`"),
    "other_cell": (
        421,
        "the shop has several cells, and another one has this product or order, or changes accounts; nothing was changed",
        "send the request to the shop's common address, a buy with the header `Flashsale-Product`, or below `/cells/` and `cell`",
    ),
    "method_not_allowed": (405, "this path does not accept the method", "use a method that `Allow` names"),
    "sold_out": (
        409,
        "fewer units were free than you asked for; while leases hold the last units, the answer is `unavailable` instead",
        "watch the stock: units of unpaid orders are sold again",
    ),
    "limit_reached": (409, "your orders hold as many units as one buyer may have", "-"),
    "cooling_down": (
        409,
        "you held units of this product and did not pay for them; they count toward your limit until the cool-down has passed",
        "buy again at `endsAt`",
    ),
    "price_changed": (
        409,
        "a unit costs something else than your `expectedPrice`; nothing was bought",
        "show the buyer `price` and `currency`, and buy with this price",
    ),
    "not_on_sale": (409, "the sale is not open", "-"),
    "sale_not_started": (409, "the sale window has not opened", "try again at `startsAt`"),
    "sale_ended": (409, "the sale window has closed", "-"),
    "sale_moved": (
        409,
        "the product is another one now, in another cell of the shop; nothing was bought",
        "buy the product `movedTo`, with its id in the header `Flashsale-Product`",
    ),
    "sale_paused": (409, "an administrator paused the sale", "watch the stock"),
    "email_taken": (409, "an account with this email exists", "log in"),
    "order_state_forbids": (409, "the state of the order does not allow the action", "read the order"),
    "refund_too_large": (
        409,
        "the refund is larger than what is left of the order's price",
        "ask for less; read the order's `refunded`",
    ),
    "refund_under_way": (409, "another refund of the order has not ended", "look at the order's refunds"),
    "order_disputed": (
        409,
        "the buyer disputes the charge at the bank; the provider decides who gets the money",
        "answer the dispute at the provider",
    ),
    "refund_begun": (
        409,
        "the provider was asked for this refund, or an operator recorded its money, so it cannot be withdrawn",
        "wait until it ends; look at the order's refunds",
    ),
    "refund_not_offered": (409, "buyers of this product cannot ask for a refund", "ask the shop"),
    "refund_ended": (
        409,
        "the refund is not pending, so there is no money to give back",
        "look at the order's refunds",
    ),
    "payment_differs": (
        409,
        "the recorded amount or currency is not the price of the order",
        "compare the money with the order",
    ),
    "recorded_otherwise": (
        409,
        "the payment or refund was recorded before, with another reference",
        "compare the references; if the money came twice, give one payment back",
    ),
    "reference_used": (409, "the reference belongs to the payment of another order", "look at that order"),
    "paid_elsewhere": (
        409,
        "another payment provider has the payment of the order",
        "read the order as an administrator: `GET /api/admin/orders/{id}`",
    ),
    "open_orders": (409, "the buyer has orders that are not final", "wait until they are final, or cancel them"),
    "allotment_below_claimed": (409, "orders hold more units than the new allotment", "choose a larger allotment"),
    "product_archived": (
        409,
        "the product is archived, and nothing of it changes any more",
        "create another product",
    ),
    "product_open": (
        409,
        "the product's sale, an order or a refund of it is open",
        "do what the detail says, then archive it",
    ),
    "sale_open": (
        409,
        "the product is on sale, so its price cannot be raised; it can be lowered",
        "pause the sale, raise the price, resume the sale",
    ),
    "stale": (
        412,
        "the product changed after you read it: none of the tags in `If-Match` is that of its terms",
        "read it again",
    ),
    "too_slow": (
        408,
        "the request did not arrive within `FLASHSALE_HTTP__REQUEST_TIMEOUT_S`; the connection is closed",
        "send it again",
    ),
    "body_too_large": (413, "the body is larger than `FLASHSALE_HTTP__BODY_BYTES_MAX`", "send a smaller body"),
    "target_too_long": (
        414,
        "the request line alone is larger than `FLASHSALE_HTTP__HEAD_BYTES_MAX`; the connection is closed",
        "send a shorter request target",
    ),
    "unsupported_media_type": (415, "the API does not accept this content type", "send JSON"),
    "idempotency_key_reused": (
        422,
        "an accepted request with another body, or an administrator's with another path, used this key",
        "send a new key",
    ),
    "rate_limited": (429, "you sent more requests than the limit allows", "wait as long as `Retry-After` says"),
    "too_many_logins": (
        429,
        "too many failed logins or requests for a new password: for this account from your address, or from your address for any account",
        "wait as long as `Retry-After` says",
    ),
    "head_too_large": (
        431,
        "request line and headers are larger than `FLASHSALE_HTTP__HEAD_BYTES_MAX`; the connection is closed",
        "send fewer or shorter headers",
    ),
    "unavailable": (
        503,
        "a queue is full, a server is down, leases hold the last units, or another request under your key is in progress; nothing was refused",
        "send the same request again, under the same key",
    ),
    "outcome_unknown": (
        503,
        "the database went away while it made the change, which may have been made",
        "look at the list of products; send the request again only if the product is not there",
    ),
    "other_schema": (
        503,
        "the database does not have the schema of this release",
        "send the same request later; the operator runs `alembic upgrade head`",
    ),
    "not_ready": (
        503,
        "`/health/ready`: this process cannot serve; `problems` names the causes",
        "do what `problems` says",
    ),
    "not_supported": (409, "the payment provider of this shop does not support this call", "-"),
    "internal": (500, "a defect of the server; the log has the details", "report it"),
}
"""Status, meaning and advice by code, as in docs/reference/problems.md."""

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
    description="Show what a problem code means and what to do. The `type` of each problem document is such a URL.",
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
    """Return the page of a code."""
    code = request.path.removeprefix(PAGES).rstrip("/")
    known = MEANINGS.get(code)
    if known is None:
        return NO_SUCH_PATH
    status, meaning, advice = (html.escape(str(part)) for part in known)
    shown = PAGE.format(code=code, status=status, meaning=meaning.replace("`", ""), advice=advice.replace("`", ""))
    policy = (b"content-security-policy", b"default-src 'none'")
    return rendered(HTTPStatus.OK, shown.encode(), policy, media_type=b"text/html; charset=utf-8")


ROUTES = [Direct(template=f"{PAGES}{{code}}", method="GET", serve=page, operation=SHOW)]
