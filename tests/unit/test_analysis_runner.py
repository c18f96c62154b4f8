"""How an analysis waits for an approach, is interrupted, and cleans up."""

import asyncio
import os
import signal
import subprocess
import tempfile
from types import SimpleNamespace

import asyncpg
import pytest
import uvloop
from analysis import measure, stage
from analysis.__main__ import interruptible
from analysis.crowd import written
from analysis.runner import PREFIX, workplace
from analysis.stage import Look, until_at_rest
from redis.exceptions import ConnectionError as RedisGone

from flashsale.local.children import ChildFailed

DONE = Look(stock=0, queued=0, orders={"confirmed": 3})
STUCK = Look(stock=0, queued=0, orders={"confirmed": 2, "paying": 1})
WAITING = Look(stock=0, queued=1, orders={"confirmed": 3})


def an_approach(*looks):
    """Return an approach that looks so, one look after the other, the last one for ever."""
    left = list(looks)

    async def look():
        seen = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(seen, Exception):
            raise seen
        return seen

    return SimpleNamespace(look=look, still_s=0.05, left=left)


@pytest.fixture(autouse=True)
def _often(monkeypatch):
    monkeypatch.setattr(stage, "LOOK_S", 0.001)


@pytest.mark.parametrize(
    ("looks", "end"),
    [
        ([STUCK, DONE], "at rest"),
        ([WAITING, RedisGone(), DONE], "at rest"),
        ([WAITING, STUCK], "stuck"),
        ([RedisGone(), WAITING], "stuck"),
    ],
)
async def test_an_approach_is_waited_for_until_it_is_at_rest_or_changes_nothing_any_more(looks, end):
    running = an_approach(*looks)
    async with asyncio.timeout(60):
        assert await until_at_rest(running, longest_s=60) == end
    assert len(running.left) == 1, "every look was seen"


async def test_an_approach_that_goes_on_changing_is_busy_when_the_time_is_over():
    changing = (Look(stock=0, queued=number, orders={}) for number in range(1, 10**9))

    async def look():
        return next(changing)

    assert await until_at_rest(SimpleNamespace(look=look, still_s=0.05), longest_s=0.1) == "busy"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_interrupts_an_analysis_even_if_it_was_started_with_the_signal_ignored(number):
    ended = []

    async def running():
        try:
            os.kill(os.getpid(), number)
            await asyncio.sleep(20)
        finally:
            await asyncio.sleep(0)
            ended.append("stopped in order")

    before = signal.signal(number, signal.SIG_IGN)
    try:
        with pytest.raises(KeyboardInterrupt), interruptible():
            uvloop.run(running())
        assert signal.getsignal(number) is signal.SIG_IGN
    finally:
        signal.signal(number, before)
    assert ended == ["stopped in order"]


def test_a_step_tells_how_many_buys_were_really_sent_in_a_second():
    """Of 100 planned in a second, 20 found no connection; the last of the others was sent after two seconds."""
    buys = [
        {"intended_at": at / 100, "sent_at": at / 40, "answered_at": at / 40 + 0.1, "status": 409, "code": "sold_out"}
        for at in range(80)
    ]
    buys += [{"intended_at": 0.9, "sent_at": 3.0, "answered_at": 3.0, "status": 0, "code": None}] * 20
    step = {"rate": 100, "seconds": 1.0, "began_at": 0.0, "ended_at": 4.0, "arrived": 100, "bad_share": 0.2}
    step |= {"broke": True, "accepted": 0, "refused": 80, "failed": 0, "timed_out": 20, "late": 0}
    sent = SimpleNamespace(history=SimpleNamespace(buys=buys), pulse={"steps": [step], "began_at": 0.0, "late_ms": []})
    (found,) = measure.steps(sent)
    assert found.sent_per_s == pytest.approx(80 / (79 / 40), abs=0.1)


@pytest.mark.parametrize(("pulse", "history"), [("", ""), ('{"began_at": 1', ""), ("{}", '{"kind": "buy", "us')])
def test_files_of_a_generator_that_are_cut_are_not_read_as_a_smaller_crowd(tmp_path, pulse, history):
    with pytest.raises(FileNotFoundError):
        written(tmp_path)
    (tmp_path / "pulse.json").write_text(pulse)
    (tmp_path / "history.jsonl").write_text(history)
    with pytest.raises(ValueError):  # noqa: PT011 - of the JSON or of the history
        written(tmp_path)


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def test_what_a_killed_analysis_left_is_deleted_and_nothing_else(temporary, tmp_path):
    with subprocess.Popen(["true"]) as ended:
        ended.wait()
    names = {name: temporary / name for name in (f"{PREFIX}{ended.pid}-a", f"{PREFIX}{os.getppid()}-b", f"{PREFIX}x-c")}
    for folder in names.values():
        (folder / "stage").mkdir(parents=True)
    with workplace(tmp_path / "found") as mine:
        assert mine.parent == temporary
        left = {path.name for path in temporary.iterdir()}
    assert left == {*list(names)[1:], mine.name}
    assert not mine.exists()


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ChildFailed("naive api ended (log: {}/stage/logs/api.log)"), "naive api ended (log: {}/stage/logs/api.log)"),
        (asyncpg.PostgresError("the disk is full"), "the disk is full: PostgresError (logs: {})"),
        (RedisGone("closed"), "closed: ConnectionError (logs: {})"),
        (TimeoutError(), "A run took too long: TimeoutError (logs: {})"),
    ],
)
def test_a_failure_is_told_in_a_line_that_names_the_logs_which_stay(temporary, tmp_path, error, said):
    found = tmp_path / "found"
    with pytest.raises(ChildFailed) as told, workplace(found) as folder:
        (folder / "stage/logs").mkdir(parents=True)
        (folder / "stage/logs/api.log").write_text("no such table\n")
        raise type(error)(str(error).format(folder)) if error.args else error
    assert str(told.value) == said.format(found / "failed")
    assert (found / "failed/stage/logs/api.log").read_text() == "no such table\n"
    assert not list(temporary.iterdir())
