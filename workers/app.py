"""The procrastinate app. Its CLI finds it as `workers.app.app`; nothing connects before it is opened."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from procrastinate import App, Blueprint

from flashsale.adapters.postgres.job_queue import JobQueue
from flashsale.settings import Settings, read_settings
from workers import maintenance, orders, payments

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

ROLES: dict[str, Callable[[], Blueprint]] = {
    "orders": orders.make_tasks,
    "payments": payments.make_tasks,
    "maintenance": maintenance.make_tasks,
}
"""What can be run as a worker: role and queue have the same name."""


def build_app(settings: Settings, *, roles: Iterable[str] = ROLES, concurrency: int = 1) -> App:
    """Make an app with the tasks of some roles, for one worker that runs `concurrency` jobs at once.

    The task names are those that the SQL functions defer.
    """
    roles = list(roles)
    app = App(
        connector=JobQueue(settings.postgres, name=f"flashsale-jobs-{'-'.join(roles)}", slots=concurrency),
    )
    for role in roles:
        app.add_tasks_from(ROLES[role](), namespace=role)
    return app


def __getattr__(name: str) -> Any:
    if name == "app":
        return build_app(read_settings())
    raise AttributeError(name)
