"""Settings of an API process' edge: HTTP, streams, tokens, logins and limits."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import AfterValidator, Field, SecretStr, model_validator

from flashsale.settings.values import (
    KEY_CHARS_MIN,
    Group,
    Network,
    Secret,
    long_or_empty,
    varied,
)


class AuthSettings(Group):
    """Tokens and passwords."""

    jwt_secret: Annotated[Secret, Field(min_length=KEY_CHARS_MIN), AfterValidator(varied)] = Field(
        SecretStr(""),
        description="Secret key that signs the tokens (HS256): at least 32 bytes, the same in every API process.",
    )
    jwt_second_secret: Annotated[Secret, AfterValidator(long_or_empty), AfterValidator(varied)] = Field(
        SecretStr(""), description="Second key: its tokens are accepted too, while the secret is rotated."
    )
    jwt_issuer: str = Field("flashsale", description="Value of the claim `iss` in every token.")
    jwt_audience: str = Field("flashsale-api", description="Value of the claim `aud` in every token.")
    jwt_ttl_s: int = Field(3600, ge=1, le=86_400, description="Lifetime of a login token.")
    stream_token_ttl_s: int = Field(300, ge=1, le=3600, description="Lifetime of a stream token.")
    reset_token_ttl_s: int = Field(
        3600, ge=1, le=86_400, description="Lifetime of a token or code that resets a password."
    )
    reset_pause_s: int = Field(
        60, ge=1, le=3600, description="Minimum time between two e-mails with a code for a new password to one account."
    )
    verified_tokens_max: int = Field(
        20_000, ge=0, description="Maximum number of verified tokens that a process caches until they expire."
    )
    hash_concurrency: int = Field(
        1,
        ge=1,
        le=64,
        description="Hashing processes per API process (19 MiB each); each hashes one password at a time.",
    )
    hash_queue_max: int = Field(
        64,
        ge=1,
        description="Maximum number of logins and registrations that wait for a hash in each of three lanes; then 503.",
    )
    hash_wait_s: float = Field(5.0, gt=0, description="Maximum wait for a hash; then 503.")


class LoginSettings(Group):
    """Limits of failed logins (ADR 25). A pair is an account and the address that the login comes from."""

    free_tries: int = Field(5, ge=1, le=100_000, description="Failed logins of a pair before it must wait.")
    first_wait_s: float = Field(
        5.0, gt=0, le=3600, description="First wait of a pair; each further failed login doubles the wait."
    )
    longest_wait_s: float = Field(900.0, gt=0, le=86_400, description="Maximum wait of a pair.")
    forget_s: float = Field(
        3600.0, gt=0, le=604_800, description="Time after which failed logins of a pair or an account are forgotten."
    )
    account_failures: int = Field(
        20,
        ge=1,
        le=1_000_000,
        description="Failed logins of one account from new addresses, after which a new address must wait.",
    )
    stranger_wait_s: float = Field(
        30.0, gt=0, le=3600, description="Wait of a new address before its first login to such an account."
    )
    origin_failures: int = Field(
        100,
        ge=1,
        le=10_000_000,
        description="Failed logins from one address, after which it can log in only to accounts that know it.",
    )
    origin_window_s: float = Field(900.0, gt=0, le=86_400, description="Window of `origin_failures`.")
    known_s: float = Field(2_592_000.0, gt=0, description="Time for which an account knows an address after a login.")
    known_max: int = Field(200_000, ge=1, description="Maximum number of known pairs; the oldest are forgotten.")


class LimitSettings(Group):
    """How often one account may send requests other than buys. Each process counts its own requests."""

    orders: int = Field(
        50,
        ge=0,
        description="Maximum number of looks at orders, payments, cancellations and stream tokens per second; "
        "0 means no limit.",
    )
    streams: int = Field(20, ge=0, description="Maximum number of order streams opened per second; 0 means no limit.")
    administration: int = Field(
        50, ge=0, description="Maximum number of administration calls per second; 0 means no limit."
    )


class LiveSettings(Group):
    """Streams of stock and order state."""

    streams_max: int = Field(20_000, ge=1, description="Maximum number of open streams per process; then 503.")
    interval_s: float = Field(0.1, ge=0.01, description="Minimum time between two stock events of a product.")
    keepalive_s: float = Field(
        15.0, gt=0, description="Maximum time between two messages of a stream; then the server sends a comment."
    )
    retry_ms: int = Field(
        1000, ge=1, description="Minimum reconnection time sent to clients; the value is random, up to twice as long."
    )
    poll_s: float = Field(
        2.0, gt=0, description="Interval at which a process reads live values in case a notification was lost."
    )


class HttpSettings(Group):
    """The API processes."""

    processes: int = Field(
        1, ge=1, le=64, description="Number of processes that one `flashsale serve` starts behind its socket."
    )
    body_bytes_max: int = Field(16_384, ge=256, description="Maximum size of a request body; a larger body gets 413.")
    head_bytes_max: int = Field(
        16_384, ge=1024, description="Maximum size of request line and headers; a larger head gets 431."
    )
    request_timeout_s: float = Field(
        10.0, gt=0, description="Maximum time in which a request must arrive; then the server closes the connection."
    )
    keep_alive_s: float = Field(
        75.0,
        gt=0,
        description="Maximum time in which a connection may be idle, or the client of a stream may read nothing.",
    )
    connections_max: int = Field(
        20_000,
        ge=1,
        description="Maximum number of open connections of one process, streams included; then 503.",
    )
    unready_s: float = Field(
        2.0,
        ge=0,
        le=300,
        description="Time after SIGTERM in which a process still accepts connections, while `/health/ready` answers "
        "503; a load balancer must notice within this time.",
    )
    drain_s: int = Field(15, ge=1, description="Maximum time in which a process finishes its requests after that.")
    trusted_proxies: list[Network] = Field(
        [],
        description='Networks of the proxies whose `X-Forwarded-For` is trusted: `["172.16.0.0/12"]`.',
    )
    cors_origins: list[str] = Field(
        [],
        description='Origins whose pages may call the API in a browser: `["https://shop.example"]`, `["*"]` is all.',
    )
    cors_credentials: bool = Field(
        False, description='Allow these pages to send cookies, which a proxy may need; not for `["*"]`.'
    )

    @model_validator(mode="after")
    def _credentials_are_for_named_origins(self) -> Self:
        if self.cors_credentials and "*" in self.cors_origins:
            raise ValueError("cors_credentials needs cors_origins to name each origin, not *")
        return self
