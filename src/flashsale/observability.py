"""Logs, and telling whoever started this process that it runs."""

from __future__ import annotations

import logging
import os
import re
import sys
from contextvars import ContextVar
from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    from structlog.types import EventDict, Processor

    from flashsale.settings import LogSettings


REQUEST_ID: ContextVar[bytes] = ContextVar("request_id")
"""The request that is served, for its log lines; structlog's own context would cost each request more."""

ROW_VALUES = re.compile(r"\n(DETAIL|CONTEXT): .*")
"""What Postgres adds to an error: values of the row, and with them names and emails."""


def configure_logs(settings: LogSettings) -> None:
    """Write events to stderr, as JSON lines or readable; what other libraries log, from warnings on, looks the same."""
    level = logging.getLevelNamesMapping()[settings.level.upper()]
    console = settings.format == "console" or (settings.format == "auto" and sys.stderr.isatty())
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        _with_request_id,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        # As text, without local variables: these are tokens and passwords.
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
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    # Connection losses: our own events say so, in one line.
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


def _with_request_id(_logger: object, _name: str, event: EventDict) -> EventDict:
    request_id = REQUEST_ID.get(None)
    if request_id is not None:
        event["request_id"] = request_id.decode("ascii")
    return event


def _without_row_values(_logger: object, _name: str, event: EventDict) -> EventDict:
    for key in ("exception", "problem", "event"):
        if key in event:
            event[key] = ROW_VALUES.sub("", str(event[key]))
    return event


def tell_ready(ready_fd: int | None) -> None:
    """Write a line to the inherited pipe, if there is one, and close it."""
    if ready_fd is not None:
        os.write(ready_fd, b"ready\n")
        os.close(ready_fd)
