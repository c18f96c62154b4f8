"""Errors in the shape of Stripe's: https://docs.stripe.com/api/errors and https://docs.stripe.com/error-codes."""

from __future__ import annotations

from typing import Any


class StripeError(Exception):
    """An answer that is an error.

    `executed` says whether the endpoint had begun: only then does an idempotency key keep the answer
    (https://docs.stripe.com/api/idempotent_requests). Errors of parameters and rate limits are not kept.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        type_: str = "invalid_request_error",
        code: str | None = None,
        param: str | None = None,
        executed: bool = False,
        headers: dict[str, str] | None = None,
        **more: Any,
    ) -> None:
        """Keep the parts of the answer; `more` are further members of the error object."""
        super().__init__(message)
        self.status = status
        self.executed = executed
        self.headers = headers or {}
        members = {"code": code, "message": message, "param": param, "type": type_, **more}
        if code is not None:
            members["doc_url"] = f"https://stripe.com/docs/error-codes/{code.replace('_', '-')}"
        self.body = {"error": {name: value for name, value in members.items() if value is not None}}


def missing(kind: str, id_: str, param: str = "id") -> StripeError:
    """404: there is no such object."""
    return StripeError(404, f"No such {kind}: '{id_}'", code="resource_missing", param=param)


def invalid(param: str, message: str, code: str | None = None) -> StripeError:
    """400: a parameter cannot be."""
    return StripeError(400, message, code=code, param=param)


def unexpected_state(message: str, intent: dict[str, Any] | None = None) -> StripeError:
    """400: the intent's status forbids it; the error carries the intent."""
    return StripeError(400, message, code="payment_intent_unexpected_state", executed=True, payment_intent=intent)


def internal(*, executed: bool) -> StripeError:
    """500, kept by the key if the call was executed, or 503 and nothing was done."""
    return StripeError(
        500 if executed else 503,
        "An unknown error occurred",
        type_="api_error",
        executed=executed,
        # Repeating is no use once the answer is kept: https://docs.stripe.com/error-low-level
        headers={"Stripe-Should-Retry": "false" if executed else "true"},
    )


def rate_limited(reason: str) -> StripeError:
    """429 before anything was looked at; the reason goes into a header: https://docs.stripe.com/rate-limits."""
    return StripeError(
        429,
        "Request rate limit exceeded. You can learn more about rate limits here https://stripe.com/docs/rate-limits.",
        code="rate_limit",
        headers={"Retry-After": "1", "Stripe-Rate-Limited-Reason": reason},
    )


def locked() -> StripeError:
    """429: another call is at work on the same object: https://docs.stripe.com/rate-limits#object-lock-timeouts."""
    return StripeError(
        429,
        "This object cannot be accessed right now because another API request or Stripe process is currently "
        "accessing it.",
        code="lock_timeout",
        headers={"Stripe-Should-Retry": "true"},
    )


def declined(
    code: str, decline_code: str, *, intent: dict[str, Any], charge: str | None, method: str | None
) -> StripeError:
    """402: the bank said no."""
    message = DECLINE_MESSAGES.get(decline_code, "Your card was declined.")
    return StripeError(
        402,
        message,
        type_="card_error",
        code=code,
        executed=True,
        decline_code=decline_code,
        payment_intent=intent,
        charge=charge,
        payment_method={"id": method, "object": "payment_method", "type": "card"} if method else None,
    )


DECLINE_MESSAGES = {
    "insufficient_funds": "Your card has insufficient funds.",
    "expired_card": "Your card has expired.",
    "authentication_required": "Your card was declined. This transaction requires authentication.",
}
