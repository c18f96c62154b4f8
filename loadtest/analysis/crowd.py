"""The crowds: headless locust runs against an approach, and what they wrote."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flashsale.local.children import Child
from flashsale.local.stack import ROOT
from flashsale.usecases.history import History, read_history

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from analysis.plan import Job, Size
    from analysis.stage import Running

PLAYERS = 400
"""Locust users that act for the buyers of an open crowd. If all wait for answers, the next buyers wait for one of them,
and that wait is part of their latency."""

FOLLOW_S = 1.0
"""How long the generator waits for the last orders: the analysis itself waits until all are at rest."""

LATE_S = 2.0
"""A definite answer after more than this is late."""
BROKEN_SHARE = 0.05
"""A step of the ramp broke an approach if more than this share of its arrivals failed, timed out or was late."""
LIMIT = 1
"""Units that an account may buy in the crowd with bots, where the approach has limits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """What a crowd wrote."""

    history: History
    pulse: dict[str, Any]
    """Users, the generator's lateness and the ramp's steps: see `pulse.py`."""
    bots: frozenset[str]
    """Accounts of bots."""


def units_of(crowd: str, size: Size) -> int:
    """Return the units that are on sale for a crowd."""
    return {
        "journey": size.journey_units,
        "stampede": size.stampede_units,
        "ramp": size.ramp_units,
        "abuse": size.abuse_units,
    }[crowd]


def buyers_of(crowd: str, size: Size) -> int:
    """Return the buyers of a crowd, or its most users."""
    return {
        "journey": size.journey_peak,
        "stampede": size.stampede_buyers,
        "ramp": size.ramp_buyers,
        "abuse": size.abuse_buyers,
    }[crowd]


async def send(running: Running, job: Job, size: Size, accounts: Sequence[dict[str, str]], folder: Path) -> Sent:
    """Send a crowd, and wait until it has ended.

    Raises:
        ChildFailed: if the load generator fails, or nobody's token is accepted.
    """
    count = buyers_of(job.crowd, size)
    bots = accounts[count : count + size.abuse_bots] if job.crowd == "abuse" else []
    _write(folder, buyers=accounts[:count], bots=bots)
    child = Child(
        f"{job.name}: load generator",
        [sys.executable, "-m", "locust", "--headless", "--only-summary", *_options(running, job, size, folder)],
        log_path=folder / "locust.log",
        environment={name: value for name, value in os.environ.items() if not name.startswith("PYTHONPATH")},
        cwd=ROOT,
    )
    try:
        await child.wait()
    finally:
        await child.stop(timeout_s=2)
    try:
        seen, pulse = written(folder)
    except FileNotFoundError:
        raise child.failure(f"ended with {child.returncode} before the crowd had") from None
    except ValueError:
        raise child.failure("wrote files that end in the middle; is the disk full?") from None
    if not seen.buys or all(buy["status"] in {401, 403} for buy in seen.buys):
        raise child.failure("sent no buy with a token that is accepted")
    return Sent(history=seen, pulse=pulse, bots=frozenset(bot["user_id"] for bot in bots))


def written(folder: Path) -> tuple[History, dict[str, Any]]:
    """Read what a generator wrote: the history, and its own figures.

    Raises:
        FileNotFoundError: if it did not come so far.
        ValueError: if a file is not complete.
    """
    pulse: dict[str, Any] = json.loads((folder / "pulse.json").read_text())
    with (folder / "history.jsonl").open() as lines:
        return read_history(lines), pulse


def _write(folder: Path, **accounts: Sequence[dict[str, str]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, some in accounts.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(one) + "\n" for one in some))


def _options(running: Running, job: Job, size: Size, folder: Path) -> list[str]:
    options: dict[str, object] = {
        "-f": f"loadtest/{job.crowd}.py",
        "--host": running.base_url,
        "--product": running.product_id,
        "--buyers-file": folder / "buyers.jsonl",
        "--history": folder / "history.jsonl",
        "--pulse": folder / "pulse.json",
        "--audit": "",
        # The analysis judges, not the load test.
        "--min-success": 0,
        "--max-order-p95-s": 3600,
        "--max-5xx": 10**9,
    }
    if job.crowd == "journey":
        options |= {"--factor": size.journey_factor, "--peak": size.journey_peak, "--stream": 0, "--replay": 0.1}
        options |= {"--patience-s": size.patience_s, "--follow-s": FOLLOW_S}
    else:
        players = min(PLAYERS, size.abuse_bots * size.abuse_clients + size.abuse_buyers)
        players = players if job.crowd == "abuse" else PLAYERS
        options |= {"-u": players, "-r": players, "--arrival-seed": job.seed}
    if job.crowd == "stampede":
        options |= {"--arrive-s": size.stampede_s, "--persist-s": size.stampede_s / 3}
        # The analysis does not judge what streams show at the end.
        options |= {"--patience-s": size.patience_s, "--follow-s": FOLLOW_S, "--settle-s": 0}
    if job.crowd == "ramp":
        options |= {"--rates": ",".join(map(str, size.ramp_rates)), "--step-s": size.ramp_s}
        options |= {"--late-s": LATE_S, "--broken-share": BROKEN_SHARE}
    if job.crowd == "abuse":
        options |= {"--bots-file": folder / "bots.jsonl", "--clients": size.abuse_clients}
        options |= {"--arrive-s": size.abuse_s, "--patience-s": size.patience_s}
    return [str(part) for option in options.items() for part in option]
