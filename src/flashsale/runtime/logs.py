"""Logs, and the line that tells the parent process that this process is ready."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import sys
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import structlog

from flashsale.runtime.outputs import OUTPUTS, guard_errors
from flashsale.runtime.tracing import CURRENT, join

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from uuid import UUID

    from structlog.types import EventDict, Processor

    from flashsale.domain.traces import Origin
    from flashsale.settings.groups import LogSettings


REQUEST_ID: ContextVar[bytes] = ContextVar("request_id")
"""The id of the request that is served, or that made the order of this job, for log lines.

structlog's own context would cost each request more.
"""

ORDERS_PER_LINE = 50
"""Maximum number of orders that one line names: a longer line would be cut by collectors at 16 KiB."""

ROW_VALUES = re.compile(r"\n(DETAIL|CONTEXT): .*")
"""The part of a Postgres error that holds values of the row, and with them names and emails."""


def configure_logs(settings: LogSettings) -> None:
    """Write events to stderr, as JSON lines or for people; warnings and errors of other libraries look the same.

    Writes to standard error then neither raise nor block.
    """
    guard_errors()
    level = logging.getLevelNamesMapping()[settings.level.upper()]
    console = settings.format == "console" or (settings.format == "auto" and sys.stderr.isatty())
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        _with_ids,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        # As text, without local variables, which hold tokens and passwords.
        structlog.processors.format_exc_info,
        _without_row_values,
    ]
    renderer: Processor = (
        structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
        if console
        else structlog.processors.JSONRenderer()
    )
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=_quiet(structlog.make_filtering_bound_logger(level)),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    if not console:
        for output in OUTPUTS:
            output.say_dropped = _dropped_as_json
    # These loggers report connection losses, which our own events report in one line.
    logging.getLogger("asyncpg").setLevel(logging.CRITICAL)
    others = logging.StreamHandler(sys.stderr)
    others.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    logging.basicConfig(level=max(level, logging.WARNING), handlers=[others])
    logging.captureWarnings(capture=True)


def current_request_id() -> str | None:
    """Return the id of the request that is served, or whose order is worked on."""
    request_id = REQUEST_ID.get(None)
    return None if request_id is None else request_id.decode("ascii")


def bind_origin(origin: Origin) -> None:
    """Let the following log lines of this job carry the id of the request that made its order, and join its trace."""
    if origin.request_id is not None:
        REQUEST_ID.set(origin.request_id.encode("ascii", "replace"))
    if origin.traceparent is not None:
        join(origin.traceparent)


def lines_of_orders(orders: Sequence[tuple[UUID, Origin]]) -> Iterator[list[dict[str, str | None]]]:
    """Yield what each line about a batch says: the ids of at most ORDERS_PER_LINE orders, their requests and traces.

    One line for all orders costs a batch a tenth of what a line for each would.
    """
    for first in range(0, len(orders), ORDERS_PER_LINE):
        yield [_ids_of(order_id, origin) for order_id, origin in orders[first : first + ORDERS_PER_LINE]]


def _ids_of(order_id: UUID, origin: Origin) -> dict[str, str | None]:
    ids = {"order_id": str(order_id), "request_id": origin.request_id}
    if origin.traceparent is not None:
        ids["trace_id"] = origin.trace_id
    return ids


def _quiet(base: type[Any]) -> type[Any]:
    """Make a logger that drops an event that cannot be rendered, so that the caller does not fail."""

    class Quiet(base):  # type: ignore[misc]
        def _proxy_to_logger(self, method_name: str, event: str | None = None, *args: Any, **event_kw: Any) -> Any:
            try:
                return super()._proxy_to_logger(method_name, event, *args, **event_kw)
            except Exception as error:  # noqa: BLE001 - whatever a value does when it is shown
                with contextlib.suppress(Exception):
                    return super()._proxy_to_logger("error", "log.failed", of=str(event), error=type(error).__name__)

    return Quiet


def _dropped_as_json(lines: int) -> str:
    return json.dumps({"event": "log.dropped", "level": "warning", "lines": lines})


def _with_ids(_logger: object, _name: str, event: EventDict) -> EventDict:
    request_id = REQUEST_ID.get(None)
    if request_id is not None:
        event["request_id"] = request_id.decode("ascii")
    span = CURRENT.get(None)
    if span is not None:
        event["trace_id"] = f"{span.trace_id:032x}"
    return event


def _without_row_values(_logger: object, _name: str, event: EventDict) -> EventDict:
    for key in ("exception", "problem", "event"):
        if key in event:
            event[key] = ROW_VALUES.sub("", str(event[key]))
    return event


def tell_ready(ready_fd: int | None) -> None:
    """Write a line to the inherited pipe, if there is one, and close the pipe. A missing reader is no error."""
    if ready_fd is not None:
        with contextlib.suppress(OSError):
            os.write(ready_fd, b"ready\n")
        with contextlib.suppress(OSError):
            os.close(ready_fd)
