"""The groups of settings: each field is a setting."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, SecretStr, model_validator

from flashsale.settings.server_urls import check_postgres_url, check_redis_url
from flashsale.settings.values import (
    POSTGRES_LIMIT_S_MAX,
    Group,
    Secret,
    checked_gateway_url,
    password_from,
    url_checked_by,
)


class PostgresSettings(Group):
    """Connections to Postgres, per process."""

    # Before the URLs, which take them in.
    password: Secret = Field(
        SecretStr(""),
        description="Password of the user in `url`, as it is; if empty, `url` holds it in percent-encoding.",
    )
    owner_password: Secret = Field(SecretStr(""), description="The same for `owner_url`.")
    url: Annotated[Secret, url_checked_by(check_postgres_url), password_from("password")] = Field(
        SecretStr(""),
        description="URL of Postgres: postgresql://user:password@host:port/database. "
        "Of several hosts a process uses the one that accepts writes.",
    )
    owner_url: Annotated[Secret, url_checked_by(check_postgres_url, optional=True), password_from("owner_password")] = (
        Field(
            SecretStr(""),
            description="The same URL with the user that owns the tables, for migrations and `flashsale admin`; "
            "if empty, `FLASHSALE_POSTGRES__URL`.",
        )
    )
    direct_url: Annotated[Secret, url_checked_by(check_postgres_url, optional=True), password_from("password")] = Field(
        SecretStr(""),
        description="URL of the server itself, for LISTEN, migrations and full audits, if `FLASHSALE_POSTGRES__URL` "
        "leads through a pooler in transaction mode such as PgBouncer; if empty, there is none.",
    )
    api_password: Secret = Field(
        SecretStr(""),
        description="Password that a migration sets for the role `flashsale_api`; if empty, it sets none.",
    )
    worker_password: Secret = Field(
        SecretStr(""),
        description="Password that a migration sets for the role `flashsale_worker`; if empty, it sets none.",
    )
    pool_min: int = Field(1, ge=1, le=100, description="Minimum number of open connections per process.")
    pool_max: int = Field(
        6, ge=2, le=200, description="Maximum number of connections per process, not counting the listening connection."
    )
    acquire_timeout_s: float = Field(
        5.0, gt=0, description="Maximum wait for a free connection; then the API answers 503."
    )
    statement_timeout_s: float = Field(
        10.0, gt=0, le=POSTGRES_LIMIT_S_MAX, description="Maximum duration of a statement."
    )
    lock_timeout_s: float = Field(
        3.0,
        gt=0,
        le=POSTGRES_LIMIT_S_MAX,
        description="Maximum wait for a lock; then the API answers 503, and a try of a migration ends.",
    )
    idle_transaction_timeout_s: float = Field(
        5.0,
        gt=0,
        le=POSTGRES_LIMIT_S_MAX,
        description="Maximum idle time of a client in a transaction; then Postgres ends the session.",
    )
    migration_tries: int = Field(
        5, ge=1, le=20, description="Maximum number of tries of a migration that waits too long for a lock."
    )
    migration_pause_s: float = Field(
        2.0,
        gt=0,
        le=60,
        description="Pause after the first try of a migration; each later pause is twice as long, up to a minute.",
    )

    @model_validator(mode="after")
    def _pool_has_room(self) -> Self:
        if self.pool_min > self.pool_max:
            raise ValueError(f"pool_min {self.pool_min} is more than pool_max {self.pool_max}")
        return self


class RedisSettings(Group):
    """The gate's server."""

    password: Secret = Field(
        SecretStr(""),
        description="Password of the user in `url`, as it is; if empty, `url` holds it in percent-encoding.",
    )
    url: Annotated[Secret, url_checked_by(check_redis_url), password_from("password")] = Field(
        SecretStr(""),
        description="URL of Redis or Valkey: redis://:password@host:port/0, rediss:// for TLS, unix:///path?db=0, "
        "redis+sentinel://:password@host:port,.../name/0, redis+cluster://:password@host:port,... "
        "(docs/how-to/connect-redis.md).",
    )
    timeout_s: float = Field(0.5, gt=0, description="Maximum wait for a reply; then Postgres decides without the gate.")
    reconnect_s: float = Field(0.25, gt=0, description="Pause between attempts to reconnect.")


class GateSettings(Group):
    """Admission."""

    rate_limit: int = Field(
        20, ge=0, description="Maximum number of buys per user, product and window; 0 means no limit."
    )
    rate_window_s: int = Field(1, ge=1, le=3600, description="Duration of the rate limit's window.")
    attempts_per_minute: int = Field(
        0, ge=0, description="Maximum number of buys per user, product and minute; 0 means no limit."
    )
    lease_s: float = Field(
        10.0, gt=0, description="Lifetime of a lease; then its units go back unless an order exists."
    )
    batch_max: int = Field(256, ge=1, le=1000, description="Maximum number of requests in one script call.")
    queue_max: int = Field(
        5000, ge=1, description="Maximum number of requests per process that wait for the gate; then 503."
    )


class AcceptSettings(Group):
    """The accept transaction."""

    batch_max: int = Field(64, ge=1, le=500, description="Maximum number of proposals in one transaction.")
    lanes: int = Field(
        1, ge=1, le=32, description="Maximum number of concurrent accept transactions per product and process."
    )
    transactions: int = Field(
        4,
        ge=1,
        le=200,
        description="Maximum number of concurrent accept transactions per process; less than `postgres.pool_max`.",
    )
    queue_max: int = Field(
        2000,
        ge=1,
        description="Maximum number of concurrent buys per product and process, four times as many for all; then 503.",
    )


class UnitSettings(Group):
    """The pool of unit rows."""

    chunk: int = Field(
        5000, ge=1, le=100_000, description="Number of unit rows that one transaction inserts or deletes."
    )
    ahead: int = Field(
        50_000, ge=1, description="Number of unit rows per product that are kept ready for the next claims."
    )


class OrderSettings(Group):
    """Orders after the 202."""

    order_due_s: float = Field(
        5.0, gt=0, description="Time after which the sweep gives a queued order without a job a new job."
    )
    payment_due_s: float = Field(
        8.0, gt=0, description="Time after which the sweep gives an order in payment without a job a new job."
    )
    postpone_s: float = Field(
        5.0, gt=0, description="First pause after Postgres refused to change an order; it doubles with each refusal."
    )
    postpone_max_s: float = Field(600.0, gt=0, description="Maximum pause of an order that Postgres refuses to change.")
    waiting_max: int = Field(
        20_000,
        ge=1,
        description="Maximum number of orders per product that wait for payment workers; then buys get 503.",
    )


class PaymentSettings(Group):
    """The payment provider and the calls to it."""

    provider: Literal["simulator", "stripe", "manual"] = Field(
        "simulator", description="Who takes the money: the simulator, Stripe, or an operator who marks orders as paid."
    )
    gateway_url: Annotated[str, AfterValidator(checked_gateway_url)] = Field(
        "", description="URL of the simulator. Payment workers require it if the simulator is the provider."
    )
    gateway_secret: Secret = Field(SecretStr(""), description="Bearer token for the simulator.")
    timeout_s: float = Field(10.0, gt=0, description="Maximum wait for the gateway; then the outcome is unknown.")
    tries_max: int = Field(
        5,
        ge=1,
        le=50,
        description="Maximum number of charges sent per order; then the worker cancels the key at the gateway.",
    )
    retry_s: float = Field(
        2.0, gt=0, description="First pause before a charge with an unknown outcome is sent again; it doubles."
    )
    retry_max_s: float = Field(
        60.0, gt=0, description="Maximum pause before a charge with an unknown outcome is sent again."
    )
    api_connections: int = Field(
        50, ge=1, le=1000, description="Maximum number of connections of an API process to the provider."
    )
    poll_s: float = Field(
        15.0,
        gt=0,
        description="First pause before the provider is asked about a payment that the buyer has to make, in case its "
        "webhook is lost; it doubles.",
    )
    poll_limit: int = Field(
        20,
        ge=1,
        le=1000,
        description="Maximum number of payments per second that are looked up, cancelled or refunded unasked.",
    )
    budget_per_s: float = Field(
        25.0,
        ge=0,
        description="Calls per second and operation that all processes together send to Stripe; 0 means no limit.",
    )
    budget_wait_s: float = Field(
        2.0, gt=0, description="Maximum time that a call waits for its turn in the budget; then its job is put off."
    )
    breaker_failures: int = Field(
        10, ge=1, description="Failures of the provider in a row after which a process stops asking it for a while."
    )
    breaker_pause_s: float = Field(
        5.0, gt=0, description="First pause until a process tries the provider with one call; it doubles."
    )
    breaker_pause_max_s: float = Field(60.0, gt=0, description="Maximum pause until the provider is tried again.")


class WorkerSettings(Group):
    """The job workers."""

    processes: int = Field(1, ge=1, le=64, description="Number of processes that one `python -m workers` starts.")
    order_concurrency: int = Field(
        16, ge=1, le=1000, description="Maximum number of concurrent order jobs per process."
    )
    payment_concurrency: int = Field(
        720, ge=1, le=5000, description="Maximum number of concurrent payments per process."
    )
    polling_s: float = Field(
        1.0, gt=0, description="Interval at which a worker looks for jobs when no notification arrives."
    )
    heartbeat_s: float = Field(2.0, gt=0, description="Interval between heartbeats of a worker.")
    stalled_s: float = Field(10.0, gt=0, description="Time without a heartbeat after which a worker counts as dead.")
    drain_s: float = Field(20.0, gt=0, description="Maximum time in which a worker finishes its jobs after SIGTERM.")
    sweep_limit: int = Field(500, ge=1, le=10_000, description="Maximum number of orders, leases or returns per sweep.")
    reconcile_s: float = Field(
        0.8, gt=0, description="Approximate maximum duration of a reconciliation; one starts each second."
    )
    reconcile_idle: int = Field(
        100,
        ge=1,
        le=10_000,
        description="Number of idle products that each reconciliation compares with the gate, in turn.",
    )
    metrics_port: int = Field(
        0,
        ge=0,
        le=65_535,
        description="Port of a worker's `/metrics` and `/health/live`, on all addresses; 0 means none.",
    )


class AuditSettings(Group):
    """The audit."""

    overdue_s: float = Field(
        60.0, ge=0, description="Delay of an order beyond its due time after which the audit reports it."
    )
    stuck_s: float = Field(
        3600.0,
        gt=0,
        description="Maximum time in a state that is not final, in addition to the buyer's payment window.",
    )
    timeout_s: float = Field(
        600.0, gt=0, le=POSTGRES_LIMIT_S_MAX, description="Maximum duration of a statement of the audit."
    )


class LogSettings(Group):
    """Logs."""

    level: Literal["debug", "info", "warning", "error"] = Field("info", description="Minimum level that is written.")
    format: Literal["auto", "json", "console"] = Field(
        "auto", description="`auto` means `console` on a terminal, else `json`."
    )
