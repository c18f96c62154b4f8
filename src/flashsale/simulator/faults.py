"""What goes wrong, as settings say at the start and `PUT /v1/faults` while it runs."""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass

SECONDS_MAX = 86_400.0
LATENCY_SIGMA_MAX = 5.0
PER_SECOND_MAX = 1_000_000


class RefusedError(Exception):
    """A call that is answered with a problem document."""

    def __init__(self, status: int, code: str, detail: str) -> None:
        """Keep what the document says."""
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail


class Fault(enum.StrEnum):
    """What goes wrong with a call that changes something."""

    # 503, and nothing was done.
    ERROR = "error"
    # 500, although the call was carried out; a key of Stripe's dialect keeps the 500.
    CHARGED_ERROR = "chargedError"
    # The connection is closed without an answer, although the call was carried out.
    DROP = "drop"
    # Never answered and never carried out; a key is pending until it is charged by another call, or cancelled.
    HANG = "hang"
    # The connection is closed without an answer, and nothing was done.
    CUT = "cut"
    # Carried out and answered after `slow_s`, whether or not the client still waits.
    SLOW = "slow"
    # 429 with Retry-After, and nothing was done.
    REJECT = "reject"


@dataclass(frozen=True, slots=True, kw_only=True)
class Behaviour:
    """What may change while it runs. A call has at most one fault, so the fault rates add up to at most 1."""

    latency_mean_s: float
    latency_sigma: float
    decline_rate: float
    error_rate: float
    charged_error_rate: float
    drop_rate: float
    hang_rate: float
    cut_rate: float = 0.0
    slow_rate: float = 0.0
    slow_s: float = 30.0
    reject_rate: float = 0.0
    outage_s: float = 0.0
    """From the moment when it is set: every call is cut, no webhook leaves."""
    rate_limit_per_s: int = 25
    """Calls per operation of Stripe's dialect and second; more get 429. 0: no limit."""
    account_limit_per_s: int = 100
    """The same over all operations."""
    search_lag_s: float = 0.0
    fee_rate: float = 0.0
    """Of what is captured, what Stripe's dialect keeps."""
    webhook_delay_mean_s: float = 0.0
    webhook_duplicate_rate: float = 0.0
    webhook_reorder_rate: float = 0.0
    webhook_loss_rate: float = 0.0
    webhook_bad_signature_rate: float = 0.0
    webhook_retry_s: float = 1.0
    """Before the second try; each further one waits twice as long."""

    def fault(self, draw: float) -> Fault | None:
        """Return the fault that a draw of [0, 1) stands for."""
        for fault, rate in zip(Fault, self.fault_rates, strict=True):
            if draw < rate:
                return fault
            draw -= rate
        return None

    @property
    def fault_rates(self) -> tuple[float, ...]:
        """The rates in the order of `Fault`."""
        return (
            self.error_rate,
            self.charged_error_rate,
            self.drop_rate,
            self.hang_rate,
            self.cut_rate,
            self.slow_rate,
            self.reject_rate,
        )


MOST: dict[str, float] = {
    "latency_mean_s": 3600.0,
    "latency_sigma": LATENCY_SIGMA_MAX,
    "slow_s": 3600.0,
    "outage_s": SECONDS_MAX,
    "rate_limit_per_s": PER_SECOND_MAX,
    "account_limit_per_s": PER_SECOND_MAX,
    "search_lag_s": SECONDS_MAX,
    "webhook_delay_mean_s": SECONDS_MAX,
    "webhook_retry_s": SECONDS_MAX,
}
"""The greatest value of what is no rate; a rate is at most 1."""


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(part.capitalize() for part in rest)


BEHAVIOUR_NAMES = {_camel(name): name for name in Behaviour.__dataclass_fields__}
"""Names over the wire and here."""


def checked(behaviour: Behaviour) -> Behaviour:
    """Return the behaviour back if it can be.

    Raises:
        RefusedError: 400 if a value is no number, out of its range, or the fault rates add up to more than 1.
    """
    for name, field in BEHAVIOUR_NAMES.items():
        value: object = getattr(behaviour, field)
        most = MOST.get(field, 1.0)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= most:
            raise RefusedError(400, "invalid_fault", f"{name} must be a number of 0 to {most:g}.")
    if math.fsum(behaviour.fault_rates) > 1:
        names = ", ".join(f"{fault}Rate" for fault in Fault)
        raise RefusedError(400, "invalid_fault", f"{names} exceed 1 together.")
    return behaviour
