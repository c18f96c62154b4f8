"""What an analysis was made with: the machine, the versions, the size of each baseline's code."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import tempfile
from importlib.metadata import version
from pathlib import Path

import psutil

import flashsale
from analysis.baseline import BASELINES
from analysis.product import OURS
from flashsale.local.binaries import postgres_bin, redis_server
from flashsale.local.stack import ROOT, Stack

BASELINE_FILES = ("naive", "synchronous", "mutex", "redis_queue", "lua", "shop")
"""Modules in loadtest/baselines; `synchronous` has the row lock too, `shop` what all share."""


def machine() -> dict[str, str]:
    """Describe the machine."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    return {
        "processors": f"{len(os.sched_getaffinity(0))}",
        "model": models[0] if models else platform.machine(),
        "memory": f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
        "system": f"{platform.system()} {platform.release()}",
    }


def versions() -> dict[str, str]:
    """Return versions by name.

    Raises:
        MissingBinary: if there is no server to start.
    """
    found = {"flashsale": flashsale.__version__, "Python": platform.python_version()}
    with tempfile.TemporaryDirectory() as copies:
        servers = {
            "Postgres": postgres_bin(copies=Path(copies) / "postgres") / "postgres",
            "Valkey or Redis": redis_server(copies=Path(copies) / "redis"),
        }
        for name, binary in servers.items():
            said = subprocess.run([binary, "--version"], capture_output=True, text=True, check=False).stdout  # noqa: S603
            numbers = re.search(r"\d+(\.\d+)+", said)
            found[name] = numbers[0] if numbers else said.strip()
    return found | {name: version(name) for name in ("litestar", "locust", "asyncpg", "redis", "procrastinate")}


def lines() -> dict[str, int]:
    """Count the lines of each baseline's module, and of what they share."""
    folder = ROOT / "loadtest" / "baselines"
    return {name: len((folder / f"{name}.py").read_text().splitlines()) for name in BASELINE_FILES}


def processes() -> dict[str, dict[str, int]]:
    """Return the processes of each approach by role; servers and payment provider are the same for all."""
    ours = Stack(Path("unused")).counts
    return {
        **{name: {"api": api, **workers} for name, (api, workers) in BASELINES.items()},
        OURS: {role: count for role, count in ours.items() if role != "simulator"},
    }
