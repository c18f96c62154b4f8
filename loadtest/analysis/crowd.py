"""The crowd: a headless locust run against an approach, and what its clients saw."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flashsale.local.children import Child
from flashsale.local.stack import ROOT
from flashsale.usecases.history import History, read_history

if TYPE_CHECKING:
    from pathlib import Path

    from analysis.stage import Running

PLAYERS = 250
"""Locust users that act for the buyers: enough that no buyer waits for one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stampede:
    """All buyers arrive within seconds, at times drawn beforehand."""

    buyers: int
    seconds: float
    seed: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Crowd:
    """What a crowd saw."""

    history: History
    summary: dict[str, float]


async def send(running: Running, stampede: Stampede, folder: Path) -> Crowd:
    """Send a stampede, and wait until it has ended.

    Raises:
        ChildFailed: if the load generator fails.
    """
    buyers, history, summary = folder / "crowd.jsonl", folder / "history.jsonl", folder / "summary.json"
    made = await running.buyers(stampede.buyers)
    buyers.write_text("".join(json.dumps(one) + "\n" for one in made))
    options = {
        "--host": running.base_url,
        "-u": PLAYERS,
        "-r": PLAYERS,
        "--buyers-file": buyers,
        "--product": running.product_id,
        "--arrive-s": stampede.seconds,
        "--persist-s": 5,
        "--arrival-seed": stampede.seed,
        "--follow-s": 40,
        "--min-success": 0,
        "--max-order-p95-s": 3600,
        "--max-5xx": 10**9,
        "--history": history,
        "--summary": summary,
        "--audit": "",
    }
    flat = [str(part) for option in options.items() for part in option]
    child = Child(
        "load generator",
        [sys.executable, "-m", "locust", "--headless", "--only-summary", "-f", "loadtest/stampede.py", *flat],
        log_path=folder / "locust.log",
        environment={name: value for name, value in os.environ.items() if not name.startswith("PYTHONPATH")},
        cwd=ROOT,
    )
    try:
        await child.wait()
    finally:
        await child.stop(timeout_s=5)
    if not summary.exists():
        raise child.failure("wrote no summary")
    with history.open() as lines:
        return Crowd(history=read_history(lines), summary=json.loads(summary.read_text()))
