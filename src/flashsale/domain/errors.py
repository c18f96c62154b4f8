"""Errors of the domain, each with a stable `code` and data. `http/problems.py` maps them to status codes."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from datetime import datetime


class FlashSaleError(Exception):
    """Base of every error that the domain and the use cases raise."""

    code: ClassVar[str] = "error"

    def __init__(self, detail: str) -> None:
        """Set the text that the caller sees."""
        super().__init__(detail)
        self.detail = detail


class InvalidInput(FlashSaleError):
    """A field has an invalid value; nothing was changed."""

    code = "invalid_input"

    def __init__(self, *, field: str, problem: str) -> None:
        """Name the field and the problem."""
        super().__init__(f"{field} {problem}")
        self.field = field


class NotFound(FlashSaleError):
    """The object does not exist, or belongs to another user."""

    code = "not_found"


class ProductNotFound(NotFound):
    """No product has this id."""

    code = "product_not_found"

    def __init__(self, product_id: int) -> None:
        """Name the product."""
        super().__init__(f"There is no product {product_id}.")
        self.product_id = product_id


class OrderNotFound(NotFound):
    """The caller has no order with this id; it may belong to another buyer."""

    code = "order_not_found"

    def __init__(self) -> None:
        """Do not reveal whether the order exists."""
        super().__init__("You have no order with this id.")


class OrderArchived(NotFound):
    """Most of the order's rows left the database for files."""

    code = "order_archived"

    def __init__(self, *, at: datetime, place: str) -> None:
        """Name the day and the place of the files."""
        super().__init__(f"The order was archived on {at:%Y-%m-%d} in {place}: look for its id in the files there.")


class OtherCell(FlashSaleError):
    """Another cell of the shop answers this request; nothing was changed here."""

    code = "other_cell"

    def __init__(self, cell: int) -> None:
        """Name the cell, and the path at which the shop's router reaches it."""
        super().__init__(
            f"Cell {cell} answers this: send it to the shop's common address, a buy with Flashsale-Product, "
            f"or below /cells/{cell}/ there."
        )
        self.cell = cell


class BuyerNotFound(NotFound):
    """No account of a buyer has this id."""

    code = "buyer_not_found"

    def __init__(self) -> None:
        super().__init__("There is no buyer with this id.")


class Unauthenticated(FlashSaleError):
    """The token is missing or invalid."""

    code = "unauthenticated"

    def __init__(self, detail: str, *, refused: bool = False, unknown: bool = False) -> None:
        """Keep the sentence; `refused`: a token was sent, and it is forged, expired, revoked or for something else.

        `unknown`: the token holds, and no account has its id here. In a cell that copies accounts, it may come yet.
        """
        super().__init__(detail)
        self.refused = refused
        self.unknown = unknown


class BadCredentials(Unauthenticated):
    """Email or password is wrong."""

    code = "bad_credentials"

    def __init__(self) -> None:
        """Use the same text for an unknown email and a wrong password."""
        super().__init__("Email or password is wrong.")


class Forbidden(FlashSaleError):
    """The caller is authenticated but lacks the role."""

    code = "forbidden"


class EmailTaken(FlashSaleError):
    """An account with this email exists."""

    code = "email_taken"

    def __init__(self) -> None:
        super().__init__("An account with this email exists; log in instead.")


class Refused(FlashSaleError):
    """Base of refused buys: the request was valid and the answer is no. A later request may succeed."""


class SoldOut(Refused):
    """Fewer units were free than the buyer asked for."""

    code = "sold_out"

    def __init__(self) -> None:
        super().__init__("Sold out. Units that come back are sold again.")


class LimitReached(Refused):
    """The buyer's orders hold as many units of this product as one buyer may have."""

    code = "limit_reached"

    def __init__(self, limit: int | None) -> None:
        """Name the limit in units, if it is known."""
        super().__init__("You have reached the limit per buyer" + (f" of {limit}." if limit else "."))


class CoolingDown(LimitReached):
    """Only units that the buyer held and did not pay for leave no room: they count until the cool-down has passed."""

    code = "cooling_down"

    def __init__(self, ends_at: datetime) -> None:
        """Name the instant, in whole seconds, at which the buyer may buy again."""
        self.ends_at = ends_at.replace(microsecond=0) + timedelta(seconds=1)
        Refused.__init__(
            self,
            f"You held units of this product and did not pay for them; buy again at {self.ends_at:%Y-%m-%dT%H:%M:%SZ}.",
        )


class PriceChanged(Refused):
    """A unit costs something else than the buyer saw; the buyer decides again."""

    code = "price_changed"

    def __init__(self, *, price: str, currency: str) -> None:
        """Name the present price of a unit."""
        super().__init__(f"The price is {price} {currency} now; nothing was bought.")
        self.price = price
        self.currency = currency


class NotOnSale(Refused):
    """Base: the sale has not started, has ended or is paused."""

    code = "not_on_sale"


class SaleNotStarted(NotOnSale):
    """The sale window has not opened."""

    code = "sale_not_started"

    def __init__(self, starts_at: datetime | None) -> None:
        """Name the start."""
        super().__init__("The sale has not started.")
        self.starts_at = starts_at


class SaleEnded(NotOnSale):
    """The sale window has closed."""

    code = "sale_ended"

    def __init__(self) -> None:
        super().__init__("The sale has ended.")


class SaleMoved(NotOnSale):
    """The product became another one, in another cell."""

    code = "sale_moved"

    def __init__(self, moved_to: int) -> None:
        """Name the product that it became."""
        super().__init__(f"The sale goes on as product {moved_to}; nothing was bought.")
        self.moved_to = moved_to


class SalePaused(NotOnSale):
    """An administrator paused the sale."""

    code = "sale_paused"

    def __init__(self) -> None:
        super().__init__("The sale is paused.")


class KeyReused(FlashSaleError):
    """The idempotency key belongs to an accepted request with another body."""

    code = "idempotency_key_reused"

    def __init__(self) -> None:
        super().__init__("This idempotency key was used for another request; send a new key.")


class StateForbids(FlashSaleError):
    """The state of the order does not allow the action."""

    code = "order_state_forbids"

    def __init__(self, *, action: str, status: str) -> None:
        """Name the action (a past participle) and the status of the order."""
        super().__init__(f"An order that is {status} cannot be {action}.")
        self.status = status


class OpenOrders(FlashSaleError):
    """The buyer has orders that are not final."""

    code = "open_orders"

    def __init__(self) -> None:
        super().__init__("The buyer has orders that are not final: wait until they are final, or cancel them.")


class AllotmentTooSmall(FlashSaleError):
    """The new allotment is below the number of units that orders hold."""

    code = "allotment_below_claimed"

    def __init__(self, claimed: int) -> None:
        """Name the number of claimed units."""
        super().__init__(f"Orders hold {claimed} units; the allotment cannot be less.")
        self.claimed = claimed


class ProductArchived(FlashSaleError):
    """An archived product does not change."""

    code = "product_archived"

    def __init__(self) -> None:
        super().__init__("The product is archived and cannot be changed; create another one.")


class ProductOpen(FlashSaleError):
    """A product with something open cannot be archived."""

    code = "product_open"

    def __init__(self, what: str) -> None:
        """Say what is open and what to do, in a sentence."""
        super().__init__(what)


class SaleOpen(FlashSaleError):
    """The price of a product on sale would rise while buyers see the old one."""

    code = "sale_open"

    def __init__(self) -> None:
        super().__init__("The product is on sale, so its price cannot be raised: pause the sale first.")


class StaleChange(FlashSaleError):
    """The object changed after the caller read it."""

    code = "stale"

    def __init__(self) -> None:
        super().__init__("The product changed after you read it; read it again.")


class RateLimited(FlashSaleError):
    """The caller exceeded a rate limit; the next request may be sent in `retry_after_s`."""

    code = "rate_limited"

    def __init__(self, *, policy: str, limit: int, window_s: int, retry_after_s: int) -> None:
        """Set the policy's name and its limit in requests per window, for the RateLimit fields."""
        super().__init__(f"More than {limit} requests in {window_s} s; try again in {retry_after_s} s.")
        self.policy = policy
        self.limit = limit
        self.window_s = window_s
        self.retry_after_s = retry_after_s


class TooManyLogins(FlashSaleError):
    """Too many wrong passwords for this account from there, or from this address; `retry_after_s` says when to come."""

    code = "too_many_logins"

    def __init__(self, retry_after_s: int) -> None:
        """Use the same text whether or not the account exists, and for every count."""
        super().__init__(f"Too many tries; try again in {retry_after_s} s.")
        self.retry_after_s = retry_after_s


class Unavailable(FlashSaleError):
    """A queue is full or a server is down. The same request under its key gets the answer, if one was decided."""

    code = "unavailable"

    def __init__(self, detail: str = "Busy; send the same request again.", *, retry_after_s: int = 1) -> None:
        """Set the text, and the time to wait in whole seconds."""
        super().__init__(detail)
        self.retry_after_s = retry_after_s


class OutcomeUnknown(Unavailable):
    """A change may have been made or not, and to send it again would make it twice; the detail says where to look."""

    code = "outcome_unknown"


class OtherSchema(Unavailable):
    """The schema of the database is not that of this release."""

    code = "other_schema"

    def __init__(self) -> None:
        """Name the command that migrates the database."""
        super().__init__("The database does not have the schema of this release: run `alembic upgrade head`.")


class NotReady(Unavailable):
    """A process cannot serve, or a command cannot run, until a server changes; the detail says what to do."""

    code = "not_ready"
