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


class BuyerNotFound(NotFound):
    """No account of a buyer has this id."""

    code = "buyer_not_found"

    def __init__(self) -> None:
        super().__init__("There is no buyer with this id.")


class ProviderNotFound(NotFound):
    """A webhook came for a payment provider that this deployment does not have."""

    code = "provider_not_found"

    def __init__(self) -> None:
        super().__init__("This shop has no such payment provider, or it sends no webhooks.")


class Unauthenticated(FlashSaleError):
    """The token is missing or invalid."""

    code = "unauthenticated"

    def __init__(self, detail: str, *, refused: bool = False) -> None:
        """Keep the sentence; `refused`: a token was sent, and it is forged, expired, revoked or for something else."""
        super().__init__(detail)
        self.refused = refused


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


class RefundTooLarge(FlashSaleError):
    """More would be given back than was paid."""

    code = "refund_too_large"

    def __init__(self, left: str) -> None:
        """Name what is left to refund, with its currency."""
        super().__init__(f"Only {left} of the order's price is left to refund.")


class RefundUnderWay(FlashSaleError):
    """Another refund of the order has not ended yet."""

    code = "refund_under_way"

    def __init__(self) -> None:
        super().__init__("Another refund of this order has not ended; look at the order's refunds.")


class OpenOrders(FlashSaleError):
    """The buyer has orders that are not final."""

    code = "open_orders"

    def __init__(self) -> None:
        super().__init__("The buyer has orders that are not final: wait until they are final, or cancel them.")


class OrderDisputed(FlashSaleError):
    """The buyer disputes the charge at the bank, so the provider holds the money."""

    code = "order_disputed"

    def __init__(self) -> None:
        super().__init__("The buyer disputes this charge: the provider decides who gets the money.")


class RefundNotFound(NotFound):
    """The order has no refund with this number, or there is no such order."""

    code = "refund_not_found"

    def __init__(self) -> None:
        super().__init__("There is no such refund; look at the order's refunds.")


class RefundNotOffered(FlashSaleError):
    """The product does not allow its buyers to ask for their money back."""

    code = "refund_not_offered"

    def __init__(self) -> None:
        super().__init__("Buyers of this product cannot ask for a refund here; ask the shop.")


class RefundEnded(FlashSaleError):
    """The refund is not pending, so nobody waits for its money."""

    code = "refund_ended"

    def __init__(self, state: str) -> None:
        """Name the state of the refund."""
        super().__init__(f"This refund is {state}, so there is no money to give back.")


class PaymentDiffers(FlashSaleError):
    """The amount that an operator saw is not the price of the order."""

    code = "payment_differs"

    def __init__(self, *, price: str, currency: str) -> None:
        """Name the price."""
        super().__init__(f"The order costs {price} {currency}; record exactly this amount.")


class RecordedOtherwise(FlashSaleError):
    """An administrator recorded this payment or refund before, with another reference."""

    code = "recorded_otherwise"

    def __init__(self, reference: str) -> None:
        """Name the reference that stands."""
        super().__init__(f"The payment or refund was recorded before, with the reference {reference}.")


class ReferenceUsed(FlashSaleError):
    """The reference belongs to the payment of another order."""

    code = "reference_used"

    def __init__(self) -> None:
        super().__init__("This reference belongs to the payment of another order: one transfer pays one order.")


class PaidElsewhere(FlashSaleError):
    """Another payment provider has the payment of the order."""

    code = "paid_elsewhere"

    def __init__(self) -> None:
        super().__init__("Another payment provider has the payment of this order, so nothing can be recorded for it.")


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


class NotSupported(FlashSaleError):
    """The payment provider of this deployment has no such call."""

    code = "not_supported"

    def __init__(self, *, provider: str, call: str) -> None:
        """Name the provider and the call."""
        super().__init__(f"The payment provider {provider} does not support {call}.")


class WebhookRefused(FlashSaleError):
    """A webhook is not signed with our secret, is too old, or cannot be read; nothing was stored."""

    code = "webhook_refused"
