"""The procrastinate app. Its CLI finds it as `workers.app.app`; nothing connects before it is opened."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from procrastinate import App, Blueprint, PsycopgConnector

from flashsale.settings import Settings, read_settings
from workers import maintenance, orders, payments

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

POOL_TIMEOUT_S = 5.0
"""Longest wait for a connection; after it the worker starts again."""

RECONNECT_S = 1.0
"""How long the pool tries again by itself. Its pauses double, so a long series would outlast the outage."""

ROLES: dict[str, Callable[[], Blueprint]] = {
    "orders": orders.make_tasks,
    "payments": payments.make_tasks,
    "maintenance": maintenance.make_tasks,
}
"""What can be run as a worker: role and queue have the same name."""


def build_app(settings: Settings, *, roles: Iterable[str] = ROLES) -> App:
    """Make an app with the tasks of some roles. The task names are those that the SQL functions defer."""
    connector = PsycopgConnector(
        conninfo=settings.postgres.url.get_secret_value(),
        min_size=1,
        max_size=settings.postgres.pool_max,
        timeout=POOL_TIMEOUT_S,
        reconnect_timeout=RECONNECT_S,
        kwargs={"application_name": "flashsale-jobs"},
    )
    app = App(connector=connector)
    for role in roles:
        app.add_tasks_from(ROLES[role](), namespace=role)
    return app


def __getattr__(name: str) -> Any:
    if name == "app":
        return build_app(read_settings())
    raise AttributeError(name)
