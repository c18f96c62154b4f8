"""What can go wrong, each with a stable `code` and its data; what HTTP makes of it is `http/problems.py`'s affair."""

from __future__ import annotations

from typing import ClassVar


class FlashSaleError(Exception):
    """Base of every error that the domain and the use cases raise on purpose."""

    code: ClassVar[str] = "error"

    def __init__(self, detail: str) -> None:
        """Keep the sentence that is shown to the caller."""
        super().__init__(detail)
        self.detail = detail


class InvalidInput(FlashSaleError):
    """A field does not hold what it must; nothing was changed."""

    code = "invalid_input"

    def __init__(self, *, field: str, problem: str) -> None:
        """Name the field and what is wrong with it."""
        super().__init__(f"{field} {problem}")
        self.field = field


class NotFound(FlashSaleError):
    """There is no such thing, or it is somebody else's."""

    code = "not_found"


class ProductNotFound(NotFound):
    """No product has this id."""

    code = "product_not_found"

    def __init__(self, product_id: int) -> None:
        """Name the product."""
        super().__init__(f"There is no product {product_id}.")
        self.product_id = product_id


class OrderNotFound(NotFound):
    """The caller has no order with this id (it may be another buyer's)."""

    code = "order_not_found"

    def __init__(self) -> None:
        """Say nothing about whether the order exists."""
        super().__init__("You have no order with this id.")


class Unauthenticated(FlashSaleError):
    """No token, or one that does not hold."""

    code = "unauthenticated"


class BadCredentials(Unauthenticated):
    """Email and password do not belong together."""

    code = "bad_credentials"

    def __init__(self) -> None:
        """Say the same for an unknown email and a wrong password."""
        super().__init__("Email or password is wrong.")


class Forbidden(FlashSaleError):
    """The caller is known but may not do this."""

    code = "forbidden"


class EmailTaken(FlashSaleError):
    """An account with this email exists."""

    code = "email_taken"

    def __init__(self) -> None:
        """Give the one sentence."""
        super().__init__("An account with this email exists; log in instead.")


class Refused(FlashSaleError):
    """Base: the buy was understood and the answer is no; it may change later."""


class SoldOut(Refused):
    """No unit was free."""

    code = "sold_out"

    def __init__(self) -> None:
        """Give the one sentence."""
        super().__init__("Sold out. Units that come back are sold again.")


class LimitReached(Refused):
    """The buyer's orders hold as many units of this product as one buyer may have."""

    code = "limit_reached"

    def __init__(self, limit: int | None) -> None:
        """Name the limit where it is known, in units."""
        super().__init__("You have reached the limit per buyer" + (f" of {limit}." if limit else "."))


class NotOnSale(Refused):
    """The sale has not begun, has ended, or is paused; `code` says which."""

    code = "not_on_sale"


class SaleNotStarted(NotOnSale):
    """The sale window has not opened."""

    code = "sale_not_started"

    def __init__(self) -> None:
        """Give the one sentence."""
        super().__init__("The sale has not started.")


class SaleEnded(NotOnSale):
    """The sale window has closed."""

    code = "sale_ended"

    def __init__(self) -> None:
        """Give the one sentence."""
        super().__init__("The sale has ended.")


class SalePaused(NotOnSale):
    """An administrator paused the sale."""

    code = "sale_paused"

    def __init__(self) -> None:
        """Give the one sentence."""
        super().__init__("The sale is paused.")


class KeyReused(FlashSaleError):
    """The idempotency key belongs to an accepted request with another body."""

    code = "idempotency_key_reused"

    def __init__(self) -> None:
        """Give the one sentence."""
        super().__init__("This idempotency key was used for another request; send a new key.")


class StateForbids(FlashSaleError):
    """The order is in a state in which this cannot be done."""

    code = "order_state_forbids"

    def __init__(self, *, action: str, status: str) -> None:
        """Name the action and the order's status."""
        super().__init__(f"An order that is {status} cannot be {action}.")
        self.status = status


class AllotmentTooSmall(FlashSaleError):
    """The new allotment is below the number of units that orders hold."""

    code = "allotment_below_claimed"

    def __init__(self, claimed: int) -> None:
        """Name how many units are claimed."""
        super().__init__(f"{claimed} units are claimed by orders; the allotment cannot be less.")
        self.claimed = claimed


class StaleChange(FlashSaleError):
    """What was to be changed is not as the caller saw it."""

    code = "stale"

    def __init__(self) -> None:
        """Give the one sentence."""
        super().__init__("Somebody changed this after you read it; read it again.")


class RateLimited(FlashSaleError):
    """The caller sent more requests than allowed; `retry_after_s` says when to come back."""

    code = "rate_limited"

    def __init__(self, *, limit: int, window_s: int, retry_after_s: int) -> None:
        """Keep the policy (requests per window) for the RateLimit fields."""
        super().__init__(f"More than {limit} requests in {window_s} s; try again in {retry_after_s} s.")
        self.limit = limit
        self.window_s = window_s
        self.retry_after_s = retry_after_s


class Unavailable(FlashSaleError):
    """A queue is full or a server is away; nothing was decided, or the same request finds out what was."""

    code = "unavailable"

    def __init__(self, detail: str = "Busy; send the same request again.", *, retry_after_s: int = 1) -> None:
        """Say when to come back, in whole seconds."""
        super().__init__(detail)
        self.retry_after_s = retry_after_s


class OtherSchema(Unavailable):
    """The database was not migrated, or not to what this program asks for."""

    code = "other_schema"

    def __init__(self) -> None:
        """Say what to do."""
        super().__init__("The database's schema is missing or another than this program's: run `alembic upgrade head`.")


class NotReady(Unavailable):
    """A process cannot serve, or a command cannot work, with the servers as they are; the detail says what to do."""

    code = "not_ready"
