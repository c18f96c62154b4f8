"""The one tree of settings and the only reader of the environment.

Every setting is an environment variable `FLASHSALE_<GROUP>__<NAME>`, for example `FLASHSALE_GATE__RATE_LIMIT=20`.
"""

from __future__ import annotations

import difflib
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from flashsale.settings.archive import ArchiveSettings
from flashsale.settings.cells import CellSettings
from flashsale.settings.edge import AuthSettings, HttpSettings, LimitSettings, LiveSettings, LoginSettings
from flashsale.settings.groups import (
    AcceptSettings,
    AuditSettings,
    GateSettings,
    LogSettings,
    OrderSettings,
    PaymentSettings,
    PostgresSettings,
    RedisSettings,
    UnitSettings,
    WorkerSettings,
)
from flashsale.settings.outbox import MailSettings, OutboxSettings
from flashsale.settings.pages import PageSettings
from flashsale.settings.simulator import SimulatorSettings
from flashsale.settings.stripe import StripeSettings
from flashsale.settings.tracing import TracingSettings

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pydantic.fields import FieldInfo
    from pydantic_core import ErrorDetails

PREFIX, DELIMITER, FILE = "FLASHSALE_", "__", "_FILE"

SECRETS: Mapping[str, frozenset[str]] = {
    "api": frozenset(
        {
            "postgres.url",
            "postgres.direct_url",
            "postgres.password",
            "redis.url",
            "redis.password",
            "auth.jwt_secret",
            "auth.jwt_second_secret",
            "stripe.secret_key",
            "stripe.webhook_secret",
            "stripe.webhook_second_secret",
        }
    ),
    "orders": frozenset({"postgres.url", "postgres.direct_url", "postgres.password", "redis.url", "redis.password"}),
    "payments": frozenset(
        {
            "postgres.url",
            "postgres.direct_url",
            "postgres.password",
            "redis.url",
            "redis.password",
            "payments.gateway_secret",
            "stripe.secret_key",
        }
    ),
    "maintenance": frozenset(
        {"postgres.url", "postgres.direct_url", "postgres.password", "redis.url", "redis.password", "mail.url"}
    ),
    "simulator": frozenset({"payments.gateway_secret"}),
    "migrate": frozenset(
        {
            "postgres.owner_url",
            "postgres.direct_url",
            "postgres.owner_password",
            "postgres.api_password",
            "postgres.worker_password",
        }
    ),
    "admin": frozenset({"postgres.owner_url", "postgres.direct_url", "postgres.owner_password"}),
    "accounts": frozenset(
        {"postgres.url", "postgres.direct_url", "postgres.password", "auth.jwt_secret", "auth.jwt_second_secret"}
    ),
    "audit": frozenset(
        {
            "postgres.url",
            "postgres.direct_url",
            "postgres.password",
            "redis.url",
            "redis.password",
            "payments.gateway_secret",
            "stripe.secret_key",
        }
    ),
    "cells": frozenset({"postgres.owner_url", "postgres.direct_url", "postgres.owner_password", "cell.accounts_url"}),
    "status": frozenset({"postgres.url", "postgres.direct_url", "postgres.password", "redis.url", "redis.password"}),
    "doctor": frozenset(
        {
            "postgres.url",
            "postgres.direct_url",
            "postgres.password",
            "redis.url",
            "redis.password",
            "payments.gateway_secret",
            "stripe.secret_key",
            "mail.url",
        }
    ),
}
"""The secrets of each kind of process, which gets no others; a kind that is not named gets
none. `accounts`: `flashsale buyers`, `token` and the like."""

OPTIONAL = frozenset(
    {
        "postgres.direct_url",
        "postgres.password",
        "postgres.owner_password",
        "postgres.api_password",
        "postgres.worker_password",
        "redis.password",
        "payments.gateway_secret",
        "auth.jwt_second_secret",
        "stripe.secret_key",
        "stripe.webhook_secret",
        "stripe.webhook_second_secret",
        "mail.url",
    }
)
"""Secrets without which a process of such a kind may start."""

NO_SETTINGS = frozenset({"FLASHSALE_URL", "FLASHSALE_TOKEN"})
"""Variables of the commands that ask the API."""

OF_PROVIDER: Mapping[str, Mapping[str, frozenset[str]]] = {
    "stripe": {
        "api": frozenset({"stripe.secret_key", "stripe.webhook_secret"}),
        "payments": frozenset({"stripe.secret_key"}),
    },
}
"""The secrets that a kind of process needs because of the payment provider."""


class Variables(EnvSettingsSource):
    """The environment, less the variables that name files of secrets."""

    def __call__(self) -> dict[str, Any]:
        """Read the variables."""
        try:
            found = super().__call__()
        except SettingsError as error:
            found = dict.fromkeys(re.findall(r'"(\w+)"', str(error))[:1])
        for group, names in found.items():
            if not isinstance(names, dict):
                raise SettingsError(f"{variable(group)}: is a group; set {variable(group)}{DELIMITER}<NAME> instead")
        for name in secret_names():
            group, _, field = name.partition(".")
            names = found.get(group, {})
            if names.pop(field + FILE.lower(), None) and not names.get(field):
                names.pop(field, None)
        return found

    def decode_complex_value(self, field_name: str, field: FieldInfo, value: Any) -> Any:
        """Read JSON; leave to the check of the setting what is none."""
        try:
            return super().decode_complex_value(field_name, field, value)
        except ValueError:
            if field_name in Settings.model_fields:
                raise
            return value


class SecretFiles(PydanticBaseSettingsSource):
    """Secrets in files that `<VARIABLE>_FILE` names, as Docker and Kubernetes mount them, less the final newline."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:  # noqa: ARG002
        """Return nothing, because `__call__` reads all values at once."""
        return None, field_name, False

    def __call__(self) -> dict[str, Any]:
        """Read the files that are named."""
        found: dict[str, Any] = {}
        for name in secret_names():
            if path := os.environ.get(variable(name) + FILE):
                group, _, field = name.partition(".")
                try:
                    text = Path(path).read_text(encoding="utf-8").removesuffix("\n")
                except OSError as error:
                    raise SettingsError(f"{variable(name)}{FILE}: {path}: {error.strerror}") from error
                except UnicodeDecodeError as error:
                    raise SettingsError(f"{variable(name)}{FILE}: {path}: is no text in UTF-8") from error
                if not text:
                    raise SettingsError(f"{variable(name)}{FILE}: {path}: is empty")
                found.setdefault(group, {})[field] = text
        return found


class Settings(BaseSettings):
    """Everything that can be set."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_nested_delimiter=DELIMITER,
        frozen=True,
        extra="ignore",
        nested_model_default_partial_update=True,
    )

    # Factories: the values of a default group would be checked like given values, and a secret has no default.
    postgres: PostgresSettings = Field(default_factory=PostgresSettings)
    redis: RedisSettings = Field(default_factory=RedisSettings)
    auth: AuthSettings = Field(default_factory=AuthSettings)
    logins: LoginSettings = LoginSettings()
    gate: GateSettings = GateSettings()
    limits: LimitSettings = LimitSettings()
    accept: AcceptSettings = AcceptSettings()
    units: UnitSettings = UnitSettings()
    orders: OrderSettings = OrderSettings()
    payments: PaymentSettings = PaymentSettings()
    stripe: StripeSettings = StripeSettings()
    workers: WorkerSettings = WorkerSettings()
    audit: AuditSettings = AuditSettings()
    archive: ArchiveSettings = ArchiveSettings()
    cell: CellSettings = Field(default_factory=CellSettings)
    live: LiveSettings = LiveSettings()
    http: HttpSettings = HttpSettings()
    outbox: OutboxSettings = OutboxSettings()
    pages: PageSettings = PageSettings()
    mail: MailSettings = Field(default_factory=MailSettings)
    simulator: SimulatorSettings = SimulatorSettings()
    log: LogSettings = LogSettings()
    tracing: TracingSettings = TracingSettings()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Read the environment, then the files that it names."""
        return init_settings, Variables(settings_cls), SecretFiles(settings_cls)


def secret_names() -> Iterator[str]:
    """Return, as `group.name`, every setting that is a secret or a URL with a secret."""
    for group, field in Settings.model_fields.items():
        for name, one in field.annotation.model_fields.items():  # type: ignore[union-attr]
            if one.annotation is SecretStr:
                yield f"{group}.{name}"


def variable(name: str) -> str:
    """Return the environment variable of a setting `group.name`."""
    return PREFIX + name.upper().replace(".", DELIMITER)


def secrets_for(process: str, environment: Mapping[str, str]) -> dict[str, str]:
    """Return an environment without secrets, and files of secrets, that a kind of process does not need."""
    withheld = {variable(name) for name in secret_names() if name not in SECRETS.get(process, ())}
    return {name: value for name, value in environment.items() if name.upper().removesuffix(FILE) not in withheld}


def read_settings(process: str) -> Settings:
    """Read the settings of a kind of process; if some are missing or wrong, exit with one line for each."""
    settings, lines = check_settings(process)
    if lines:
        sys.exit("\n".join([*lines, "See docs/reference/settings.md; `flashsale up` sets what the local stack needs."]))
    return settings


def check_settings(process: str) -> tuple[Settings, list[str]]:
    """Read the settings of a kind of process, and say of each that is missing or wrong what is the matter.

    A line begins with the variable, then a colon. With such a line the settings are not complete.
    """
    settings = Settings.model_construct()
    given: set[str] = set()
    lines: list[str] = []
    try:
        for source in (Variables(Settings)(), SecretFiles(Settings)()):
            given |= {f"{group}.{name}" for group, names in source.items() for name in names}
        settings = Settings()
    except SettingsError as error:
        return settings, [str(error)]
    except ValidationError as error:
        lines = [_line(problem) for problem in error.errors(include_input=False, include_url=False)]
    if "postgres.url" in given:
        given.add("postgres.owner_url")  # see its description
    missing = SECRETS.get(process, frozenset()) - OPTIONAL - given
    if not lines:
        needed = OF_PROVIDER.get(settings.payments.provider, {}).get(process, frozenset())
        missing |= {name for name in needed if not _value(settings, name)}
    lines += [f"{variable(name)}: is missing" for name in sorted(missing)]
    return settings, lines


def _line(problem: ErrorDetails) -> str:
    """Say what is wrong with a variable. A group that disagrees with itself begins with the name of a setting in it."""
    what = problem["msg"].removeprefix("Value error, ")
    group, *names = map(str, problem["loc"])
    if not names and what.split()[0] in Settings.model_fields[group].annotation.model_fields:  # type: ignore[union-attr]
        names = [what.split()[0]]
    if problem["type"] == "list_type":
        what = 'expected a list in JSON, such as ["one", "another"]'
    # The place in a list is no part of a variable's name.
    return f"{variable('.'.join([group, *names[:1]]))}: {what}"


def unknown_variables() -> list[tuple[str, str | None]]:
    """Return the variables of the environment that look like settings and are none, each with a similar setting."""
    known = {
        variable(f"{group}.{name}")
        for group, field in Settings.model_fields.items()
        for name in field.annotation.model_fields  # type: ignore[union-attr]
    }
    known |= {f"{variable(name)}{FILE}" for name in secret_names()} | NO_SETTINGS
    return [
        (name, next(iter(difflib.get_close_matches(name.upper(), known, n=1)), None))
        for name in sorted(os.environ)
        if name.upper().startswith(PREFIX) and name.upper() not in known
    ]


def _value(settings: Settings, name: str) -> str:
    """Return the value of a secret `group.name`."""
    group, _, field = name.partition(".")
    secret: SecretStr = getattr(getattr(settings, group), field)
    return secret.get_secret_value()
