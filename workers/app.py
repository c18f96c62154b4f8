"""The procrastinate app. Its CLI finds it as `workers.app.app`; nothing connects before it is opened."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from procrastinate import App, Blueprint

from flashsale.bootstrap.jobs import job_queue
from flashsale.settings import Settings, read_settings
from flashsale.settings.groups import WorkerSettings
from workers import maintenance, orders, payments

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

MAINTENANCE_SLOTS, UPKEEP_SLOTS = 6, 8
"""At least one for each task with a lock and two for each other task of the queue, so no task waits for another."""

ROLES: dict[str, Callable[[], Blueprint]] = {
    "orders": orders.make_tasks,
    "payments": payments.make_tasks,
    "maintenance": maintenance.make_tasks,
}
"""The roles that a worker can have."""


def slots(role: str, settings: WorkerSettings) -> dict[str, int]:
    """Return the queues of a role, each with the maximum number of its concurrent jobs per process."""
    return {
        "orders": {"orders": settings.order_concurrency},
        "payments": {"payments": settings.payment_concurrency},
        "maintenance": {"maintenance": MAINTENANCE_SLOTS, "upkeep": UPKEEP_SLOTS},
    }[role]


def build_app(settings: Settings, *, roles: Iterable[str] = ROLES, concurrency: int = 1, periodic: bool = True) -> App:
    """Make an app with the tasks of some roles, for one worker that runs `concurrency` jobs at once.

    The SQL functions defer jobs by these task names. `periodic`: this app also defers the periodic jobs.
    """
    roles = list(roles)
    app = App(
        connector=job_queue(settings, name=f"flashsale-jobs-{'-'.join(roles)}", slots=concurrency),
    )
    for role in roles:
        app.add_tasks_from(ROLES[role](), namespace=role)
    if not periodic:
        app.periodic_registry.periodic_tasks.clear()
    return app


def __getattr__(name: str) -> Any:
    if name == "app":
        return build_app(read_settings("maintenance"))
    raise AttributeError(name)
