"""Logs are JSON in containers and readable on a terminal, with the ids of whose work it is and nobody's data."""

import json
import subprocess
import sys

import pytest

EVENTS = """
import logging, sys, warnings
import structlog
from structlog.contextvars import bind_contextvars
from flashsale.runtime.logs import configure_logs
from flashsale.settings.groups import LogSettings
configure_logs(LogSettings(format=sys.argv[1], level=sys.argv[2]))
log = structlog.get_logger("ours")
bind_contextvars(request_id="r-1", order_id="o-1")
log.debug("order.looked_at")
log.info("order.accepted", units=1)
logging.getLogger("theirs").warning("slow %s", "answer")
logging.getLogger("theirs").info("chatter")
warnings.warn("old")
class RowError(Exception):
    pass
def fail(password):
    raise RowError("new row violates a check\\nDETAIL:  Failing row contains " + sys.argv[3])
try:
    fail(sys.argv[4])
except RowError as error:
    log.exception("request.failed", problem=str(error))
    logging.getLogger("theirs").exception("gave up")
"""
PRIVATE = ("(1, Ada, ada@example.com).", "hunter2")
"""A row and a password. They are arguments: from Python 3.13 on, a traceback shows the lines of `-c` themselves."""


def logs(form, level="info"):
    done = subprocess.run(
        [sys.executable, "-c", EVENTS, form, level, *PRIVATE],
        capture_output=True,
        text=True,
        check=True,
        encoding="utf-8",
    )
    assert not done.stdout
    return done.stderr


def test_every_line_of_every_library_is_json_with_level_time_and_ids():
    events = [json.loads(line) for line in logs("json").splitlines()]
    assert [event["level"] for event in events] == ["info", "warning", "warning", "error", "error"]
    assert [event["event"] for event in events][:2] == ["order.accepted", "slow answer"]
    assert events[0]["units"] == 1
    assert events[1]["logger"] == "theirs"
    for event in events:
        assert (event["request_id"], event["order_id"]) == ("r-1", "o-1")
        assert event["timestamp"].endswith("Z")
    assert "RowError: new row violates a check" in events[3]["exception"]


def test_auto_is_json_where_there_is_no_terminal():
    assert json.loads(logs("auto").splitlines()[0])["event"] == "order.accepted"


@pytest.mark.parametrize("form", ["json", "console"])
def test_neither_local_variables_nor_values_of_rows_are_written(form):
    text = logs(form)
    assert "new row violates a check" in text
    for private in ("hunter2", "Ada", "ada@example.com"):
        assert private not in text


def test_the_console_shows_a_line_for_an_event():
    first = logs("console").splitlines()[0]
    assert "order.accepted" in first
    assert not first.startswith("{")


def test_the_level_is_set():
    assert "order.looked_at" in logs("json", "debug")
    assert "order.accepted" not in logs("json", "warning")
