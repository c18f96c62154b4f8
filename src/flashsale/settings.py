"""The one tree of settings and the only reader of the environment.

Every setting is an environment variable `FLASHSALE_<GROUP>__<NAME>`, for example `FLASHSALE_GATE__RATE_LIMIT=20`.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from flashsale.server_urls import check_gateway_url, check_postgres_url, check_redis_url

if TYPE_CHECKING:
    from collections.abc import Callable

PREFIX, DELIMITER = "FLASHSALE_", "__"


EXAMPLE = "change-me"
"""What stands in docker/.env.example where a secret belongs."""


def _replaced(secret: SecretStr) -> SecretStr:
    if EXAMPLE in secret.get_secret_value():
        raise ValueError(f"still holds the example's {EXAMPLE}; set a secret of your own")
    return secret


Secret = Annotated[SecretStr, AfterValidator(_replaced)]
"""A secret, or a URL with one, that is not the example's."""


def _url(check: Callable[[str], None]) -> AfterValidator:
    def checked(url: SecretStr) -> SecretStr:
        check(url.get_secret_value())
        return url

    return AfterValidator(checked)


def _gateway_url(url: str) -> str:
    if url:
        check_gateway_url(url)
    return url


class Group(BaseModel):
    """A part of the tree: frozen, without unknown names."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class PostgresSettings(Group):
    """The truth."""

    url: Annotated[Secret, _url(check_postgres_url)] = Field(
        description="Where Postgres is: postgresql://user:password@host:port/database; of several hosts, the one that "
        "takes writes."
    )
    pool_min: int = Field(1, ge=1, le=100, description="Connections that a process keeps open.")
    pool_max: int = Field(6, ge=2, le=200, description="Most connections of one process, the listening one aside.")
    acquire_timeout_s: float = Field(5.0, gt=0, description="Longest wait for a free connection before a 503.")
    statement_timeout_s: float = Field(10.0, gt=0, description="Longest time one statement may take.")
    lock_timeout_s: float = Field(3.0, gt=0, description="Longest wait for a lock before a 503.")
    idle_transaction_timeout_s: float = Field(
        5.0, gt=0, description="Longest pause of a client inside a transaction; then the server ends it and its locks."
    )


class RedisSettings(Group):
    """The gate's server."""

    url: Annotated[Secret, _url(check_redis_url)] = Field(
        description="Where Redis or Valkey is: redis://:password@host:port/0, rediss:// for TLS, unix:///path?db=0."
    )
    timeout_s: float = Field(0.5, gt=0, description="Longest wait for a reply; after it Postgres alone decides.")
    reconnect_s: float = Field(0.25, gt=0, description="Pause between attempts to reach a server that is away.")


class AuthSettings(Group):
    """Tokens and passwords."""

    jwt_secret: Annotated[Secret, Field(min_length=32)] = Field(
        description="Key of the HS256 tokens, at least 32 bytes, the same in every API process."
    )
    jwt_issuer: str = Field("flashsale", description="`iss` that tokens are given and must carry.")
    jwt_audience: str = Field("flashsale-api", description="`aud` that tokens are given and must carry.")
    jwt_ttl_s: int = Field(3600, ge=1, le=86_400, description="How long a login token is valid.")
    stream_token_ttl_s: int = Field(300, ge=1, le=3600, description="How long a stream token can open a stream.")
    verified_tokens_max: int = Field(
        20_000, ge=0, description="Verified tokens that a process remembers, until they expire."
    )
    hash_concurrency: int = Field(
        1,
        ge=1,
        le=64,
        description="Passwords hashed at once for one API process, by a process each (19 MiB).",
    )
    hash_queue_max: int = Field(64, ge=1, description="Logins and registrations that wait for a hash before a 503.")


class GateSettings(Group):
    """Admission."""

    rate_limit: int = Field(20, ge=0, description="Buys per user, product and window; 0 for no limit.")
    rate_window_s: int = Field(1, ge=1, le=3600, description="Length of the rate window.")
    attempts_per_minute: int = Field(0, ge=0, description="Buys per user, product and minute; 0 for no limit.")
    lease_s: float = Field(10.0, gt=0, description="How long a lease may wait for Postgres before it is given up.")
    batch_max: int = Field(256, ge=1, le=1000, description="Most requests in one script call.")
    queue_max: int = Field(5000, ge=1, description="Requests that wait for the gate in one process before a 503.")


class AcceptSettings(Group):
    """The accept transaction."""

    batch_max: int = Field(64, ge=1, le=500, description="Most proposals in one transaction.")
    lanes: int = Field(1, ge=1, le=32, description="Accept transactions at once for one product in one process.")
    transactions: int = Field(
        4, ge=1, le=200, description="Accept transactions at once in one process; less than `postgres.pool_max`."
    )
    queue_max: int = Field(
        2000, ge=1, description="Buys of one product under way in one process before a 503; of all products four times."
    )


class UnitSettings(Group):
    """The pool of unit rows, which are made beside the sale."""

    chunk: int = Field(5000, ge=1, le=100_000, description="Rows of units made or deleted in one transaction.")
    ahead: int = Field(50_000, ge=1, description="Rows that are kept ready behind a product's last claim.")


class OrderSettings(Group):
    """Orders after the 202."""

    order_due_s: float = Field(5.0, gt=0, description="When a queued order whose job is lost gets a new one.")
    payment_due_s: float = Field(8.0, gt=0, description="When an order in payment whose job is lost gets a new one.")
    postpone_s: float = Field(
        5.0, gt=0, description="Pause after Postgres refused to move an order; doubles with each further refusal."
    )
    postpone_max_s: float = Field(600.0, gt=0, description="Longest pause of an order that Postgres refuses to move.")
    waiting_max: int = Field(
        20_000, ge=1, description="Orders of one product that may wait for payment workers before buys get a 503."
    )


class PaymentSettings(Group):
    """The gateway's client."""

    gateway_url: Annotated[str, AfterValidator(_gateway_url)] = Field(
        "", description="Where the payment gateway is; needed by the payment workers."
    )
    gateway_secret: Secret = Field(SecretStr(""), description="Bearer secret that the gateway asks for.")
    timeout_s: float = Field(10.0, gt=0, description="Longest wait for the gateway; after it the outcome is unknown.")
    tries_max: int = Field(
        5, ge=1, le=50, description="Charges sent for one order before its key is cancelled instead."
    )
    retry_s: float = Field(2.0, gt=0, description="First pause before an unknown outcome is asked for; it doubles.")
    retry_max_s: float = Field(60.0, gt=0, description="Longest pause before an unknown outcome is asked for again.")


class WorkerSettings(Group):
    """The job workers."""

    processes: int = Field(1, ge=1, le=64, description="Processes of one `python -m workers`.")
    order_concurrency: int = Field(16, ge=1, le=1000, description="Order jobs at once in one process.")
    payment_concurrency: int = Field(720, ge=1, le=5000, description="Payments at once in one process.")
    polling_s: float = Field(1.0, gt=0, description="How often a worker looks for jobs if no notification comes.")
    heartbeat_s: float = Field(2.0, gt=0, description="How often a worker says that it lives.")
    stalled_s: float = Field(10.0, gt=0, description="Silence after which a worker counts as dead.")
    drain_s: float = Field(20.0, gt=0, description="How long a worker told to stop finishes what it has begun.")
    sweep_limit: int = Field(500, ge=1, le=10_000, description="Most orders, leases or returns in one sweep.")
    reconcile_s: float = Field(0.8, gt=0, description="About the longest time of one reconciliation, each second.")
    reconcile_idle: int = Field(
        100, ge=1, le=10_000, description="Idle products that a reconciliation compares with the gate, in turns."
    )
    metrics_port: int = Field(
        0, ge=0, le=65_535, description="Port of a worker's `/metrics` and `/health/live`, on every address; 0: none."
    )


class AuditSettings(Group):
    """The audit."""

    overdue_s: float = Field(60.0, ge=0, description="How late an order may be before the audit says so.")
    stuck_s: float = Field(
        3600.0, gt=0, description="How long an order may stay in a state that is not final, its buyer's window aside."
    )
    timeout_s: float = Field(600.0, gt=0, description="Longest time of one statement of the audit.")


class LiveSettings(Group):
    """Streams of stock and order state."""

    streams_max: int = Field(20_000, ge=1, description="Open streams of one process before a 503.")
    interval_s: float = Field(0.1, ge=0.01, description="Shortest time between two stock events of one product.")
    keepalive_s: float = Field(15.0, gt=0, description="Longest silence of a stream: a comment breaks it.")
    retry_ms: int = Field(1000, ge=1, description="Shortest reconnection time told to clients; up to twice as long.")
    poll_s: float = Field(2.0, gt=0, description="How often live values are read in case a notification was lost.")


class HttpSettings(Group):
    """The API processes."""

    processes: int = Field(1, ge=1, le=64, description="Processes of one `flashsale serve`, behind its socket.")
    body_bytes_max: int = Field(16_384, ge=256, description="Largest request body before a 413.")
    head_bytes_max: int = Field(16_384, ge=1024, description="Longest request line and headers before a 431.")
    request_timeout_s: float = Field(
        10.0, gt=0, description="How long a request may take to arrive before its connection is closed."
    )
    drain_s: int = Field(15, ge=1, description="How long a process told to stop finishes open requests.")
    cors_origins: list[str] = Field(
        [],
        description='Origins whose pages may call the API from a browser: `["https://shop.example"]`, `["*"]` for all.',
    )


class SimulatorSettings(Group):
    """The payment gateway simulator."""

    latency_mean_s: float = Field(2.5, ge=0, description="Mean time of a charge (log-normal).")
    latency_sigma: float = Field(0.5, ge=0, description="Sigma of the log-normal time.")
    decline_rate: float = Field(0.10, ge=0, le=1, description="Share of charges that are declined.")
    error_rate: float = Field(0.0, ge=0, le=1, description="Share of charges answered 503 without a charge.")
    charged_error_rate: float = Field(0.0, ge=0, le=1, description="Share of charges answered 500 although charged.")
    drop_rate: float = Field(0.0, ge=0, le=1, description="Share of charges whose answer is never sent.")
    hang_rate: float = Field(0.0, ge=0, le=1, description="Share of charges that are never answered nor made.")
    seed: int = Field(1, description="Seed of outcomes, times and faults.")
    ledger_path: str = Field("", description="File that keeps the ledger over restarts; empty for memory only.")


class LogSettings(Group):
    """Logs."""

    level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least level that is written.")
    format: Literal["auto", "json", "console"] = Field("auto", description="auto: console on a terminal, else JSON.")


class Settings(BaseSettings):
    """Everything that can be set."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_nested_delimiter=DELIMITER,
        frozen=True,
        extra="ignore",
        nested_model_default_partial_update=True,
    )

    postgres: PostgresSettings
    redis: RedisSettings
    auth: AuthSettings
    gate: GateSettings = GateSettings()
    accept: AcceptSettings = AcceptSettings()
    units: UnitSettings = UnitSettings()
    orders: OrderSettings = OrderSettings()
    payments: PaymentSettings = PaymentSettings()
    workers: WorkerSettings = WorkerSettings()
    audit: AuditSettings = AuditSettings()
    live: LiveSettings = LiveSettings()
    http: HttpSettings = HttpSettings()
    simulator: SimulatorSettings = SimulatorSettings()
    log: LogSettings = LogSettings()


def read_settings() -> Settings:
    """Read the environment; ends the process with one line for each setting that is missing or wrong."""
    try:
        return Settings()
    except ValidationError as error:
        lines = []
        for problem in error.errors(include_input=False, include_url=False):
            name = PREFIX + DELIMITER.join(str(part) for part in problem["loc"]).upper()
            lines.append(f"{name}: {problem['msg'].removeprefix('Value error, ')}")
        sys.exit("\n".join([*lines, "See docs/reference/settings.md; `flashsale up` sets what the local stack needs."]))
