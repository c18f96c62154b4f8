"""The group of settings of the payment gateway simulator."""

from __future__ import annotations

from pydantic import Field

from flashsale.settings.values import Group


class SimulatorSettings(Group):
    """The payment gateway simulator."""

    latency_mean_s: float = Field(2.5, ge=0, description="Mean duration of a charge (log-normal).")
    latency_sigma: float = Field(0.5, ge=0, description="Sigma of the log-normal duration.")
    decline_rate: float = Field(0.10, ge=0, le=1, description="Fraction of charges that are declined.")
    error_rate: float = Field(0.0, ge=0, le=1, description="Fraction of calls that get 503 and no charge.")
    charged_error_rate: float = Field(
        0.0, ge=0, le=1, description="Fraction of calls that get 500 although the charge was made."
    )
    drop_rate: float = Field(0.0, ge=0, le=1, description="Fraction of charges whose answer is never sent.")
    hang_rate: float = Field(0.0, ge=0, le=1, description="Fraction of calls that get neither an answer nor a charge.")
    cut_rate: float = Field(
        0.0, ge=0, le=1, description="Fraction of calls whose connection is closed before anything is done."
    )
    slow_rate: float = Field(0.0, ge=0, le=1, description="Fraction of calls that are carried out after `SLOW_S`.")
    slow_s: float = Field(30.0, ge=0, description="Duration of a slow call.")
    reject_rate: float = Field(0.0, ge=0, le=1, description="Fraction of calls that get 429 and no charge.")
    outage_s: float = Field(0.0, ge=0, description="Seconds from its start during which it answers nobody.")
    rate_limit_per_s: int = Field(
        25, ge=0, description="Calls per operation of Stripe's dialect and second before 429; 0 means no limit."
    )
    account_limit_per_s: int = Field(
        100, ge=0, description="Calls of Stripe's dialect per second before 429; 0 means no limit."
    )
    fee_rate: float = Field(
        0.0, ge=0, le=1, description="Fraction of each charge that Stripe's dialect keeps as its fee."
    )
    search_lag_s: float = Field(0.0, ge=0, description="Time until a search finds a new payment intent.")
    webhook_delay_mean_s: float = Field(0.0, ge=0, description="Mean delay of a webhook (log-normal).")
    webhook_duplicate_rate: float = Field(0.0, ge=0, le=1, description="Fraction of webhooks that are sent twice.")
    webhook_reorder_rate: float = Field(
        0.0, ge=0, le=1, description="Fraction of webhooks that wait until a later one was sent."
    )
    webhook_loss_rate: float = Field(0.0, ge=0, le=1, description="Fraction of webhooks that are never sent.")
    webhook_bad_signature_rate: float = Field(
        0.0, ge=0, le=1, description="Fraction of webhooks whose first try has a wrong signature."
    )
    webhook_retry_s: float = Field(
        1.0, ge=0, description="Wait before a webhook's second try; each further one waits twice as long."
    )
    key_lifetime_s: float = Field(
        86_400.0, gt=0, description="How long an idempotency key of Stripe's dialect keeps its answer."
    )
    publishable_key: str = Field(
        "pk_test_simulator", description="Key with which a page confirms a payment; it is public."
    )
    seed: int = Field(1, description="Seed of outcomes, durations and faults.")
    ledger_path: str = Field("", description="File that stores the ledger; empty means that a restart loses it.")
