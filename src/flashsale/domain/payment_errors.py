"""Errors of payments, refunds and providers' webhooks; `errors` has the base and all others."""

from __future__ import annotations

from flashsale.domain.errors import FlashSaleError, NotFound


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


class RefundBegun(FlashSaleError):
    """The money of the refund may be on its way, so the refund cannot be withdrawn."""

    code = "refund_begun"

    def __init__(self) -> None:
        super().__init__("The provider was asked for this refund, or its money was recorded: wait until it ends.")


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


class ProviderNotFound(NotFound):
    """A webhook came for a payment provider that this deployment does not have."""

    code = "provider_not_found"

    def __init__(self) -> None:
        super().__init__("This shop has no such payment provider, or it sends no webhooks.")


class NotSupported(FlashSaleError):
    """The payment provider of this deployment has no such call."""

    code = "not_supported"

    def __init__(self, *, provider: str, call: str) -> None:
        """Name the provider and the call."""
        super().__init__(f"The payment provider {provider} does not support {call}.")


class WebhookRefused(FlashSaleError):
    """A webhook is not signed with our secret, is too old, or cannot be read; nothing was stored."""

    code = "webhook_refused"
