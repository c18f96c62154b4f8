"""What a load test saw: its history, its figures, and the verdict against thresholds and the audit."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fleet import gather, is_master, sent, worker
from pulse import Pulse
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from argparse import ArgumentParser

    from locust.env import Environment

ACCEPTED, CONFLICT, TOO_MANY, UNAVAILABLE = 202, 409, 429, 503
ANSWERS = frozenset({ACCEPTED, CONFLICT, TOO_MANY, UNAVAILABLE})
"""What a buy may be answered; everything else is unexpected."""

AUDIT_TIMEOUT_S = 300
DATABASE = "FLASHSALE_POSTGRES__URL"


def add_options(parser: ArgumentParser) -> None:
    """Add what every load test can be told of its report."""
    group = parser.add_argument_group("report")
    group.add_argument("--history", default="", help="write every observation to this file (JSON lines)")
    group.add_argument(
        "--complete",
        action="store_true",
        help="say in the history that nobody else buys the product: every order must then be of this test",
    )
    group.add_argument("--summary", default="", help="write the summary to this file (JSON)")
    group.add_argument("--pulse", default="", help="write users and the generator's own lateness to this file (JSON)")
    group.add_argument(
        "--audit",
        default=f"{sys.executable} -m flashsale.cli audit" if os.environ.get(DATABASE) else "",
        help="command that holds a history (appended as --history FILE) against the database; empty: none."
        f" By default `flashsale audit` where {DATABASE} is set.",
    )
    group.add_argument(
        "--min-success", type=float, default=0.85, help="least share of accepted orders that are confirmed"
    )
    group.add_argument("--max-order-p95-s", type=float, default=15.0, help="longest p95 from 202 to a final state")
    group.add_argument("--max-5xx", type=int, default=99, help="most 5xx answers (503 is none of them)")
    group.add_argument("--min-accepted", type=int, default=0, help="least number of accepted orders")


class Report:
    """Gathers observations of a run and judges them at its end."""

    def __init__(self, environment: Environment, title: str) -> None:
        """Open the history."""
        options: Any = environment.parsed_options
        self.options = options
        self.title = title
        self.counts: Counter[str] = Counter()
        self.statuses: Counter[int] = Counter()
        """Answers to buys; 0: none came."""
        self.accepted: set[str] = set()
        """Ids of accepted orders."""
        self.finals: Counter[str] = Counter()
        self.milliseconds: dict[str, list[float]] = {}
        self.seconds: dict[str, float] = {}
        number = worker(environment)
        self._suffix = "" if number is None else f".{number}"
        self._from_workers = is_master(environment)
        path: str = options.history
        if number is not None:
            path = f"{path}{self._suffix}" if path else ""
        elif self._from_workers:
            path = ""
        elif not path and options.audit:
            handle, path = tempfile.mkstemp(prefix="flashsale-", suffix=".jsonl")
            os.close(handle)
        self._history_path = Path(path) if path else None
        self._history = self._history_path.open("w") if self._history_path else None
        self.pulse = Pulse()

    def note(self, **entry: object) -> None:
        """Write a line of history; `flashsale audit` reads it.

        Raises:
            SystemExit: if it cannot be written: a run without its history proves nothing.
        """
        if self._history is not None:
            try:
                self._history.write(json.dumps(entry) + "\n")
            except OSError as error:
                raise SystemExit(f"{self._history_path}: {error.strerror}") from error

    def took(self, what: str, seconds: float) -> None:
        """Keep a duration."""
        self.milliseconds.setdefault(what, []).append(seconds * 1000)

    def unexpected(self) -> int:
        """Return how many buys were answered what no buy may be."""
        return sum(count for status, count in self.statuses.items() if status and status not in ANSWERS)

    def summarise(self) -> dict[str, float | int]:
        """Return the figures of the run."""
        statuses = self.statuses
        summary: dict[str, float | int] = {
            "buys_sent": sum(statuses.values()),
            "accepted": len(self.accepted),
            "confirmed": self.finals["confirmed"],
            "declined": self.finals["payment_failed"],
            "other_ends": sum(self.finals.values()) - self.finals["confirmed"] - self.finals["payment_failed"],
            "not_final": self.counts["not_final"],
            "sold_out_answers": self.counts["sold_out"],
            "replays": self.counts["replays"],
            "answers_429": statuses[TOO_MANY],
            "answers_503": statuses[UNAVAILABLE],
            "no_answer": statuses[0],
            "5xx_other_than_503": sum(
                count
                for status, count in statuses.items()
                if status // 100 == 5 and status != UNAVAILABLE  # noqa: PLR2004
            ),
            "unexpected_answers": self.unexpected(),
            "given_up": self.counts["given_up"],
        }
        known = {"not_final", "sold_out", "replays", "given_up"}
        summary |= {name: count for name, count in sorted(self.counts.items()) if name not in known}
        summary |= self.seconds
        for name, values in self.milliseconds.items():
            for label, share in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99)):
                summary[f"{name}_ms_{label}"] = round(percentile(values, share), 1)
        return summary

    def figures(self) -> dict[str, Any]:
        """Return what a worker's master needs of this report."""
        return {
            "counts": dict(self.counts),
            "statuses": [*self.statuses.items()],
            "accepted": [*self.accepted],
            "finals": dict(self.finals),
            "milliseconds": self.milliseconds,
            "seconds": self.seconds,
        }

    def add(self, figures: dict[str, Any]) -> None:
        """Add the figures of a worker."""
        self.counts.update(figures["counts"])
        self.statuses.update(dict(figures["statuses"]))
        self.accepted.update(figures["accepted"])
        self.finals.update(figures["finals"])
        for name, values in figures["milliseconds"].items():
            self.milliseconds.setdefault(name, []).extend(values)
        for name, value in figures["seconds"].items():
            # Moments since the beginning: the first of all workers counts.
            self.seconds[name] = min(value, self.seconds.get(name, value))

    def close(self, environment: Environment, *more: tuple[str, bool, str]) -> None:
        """Print summary and verdict; the exit code is 0 only if everything asked for holds.

        `more` are checks of this very test: what must be, whether it is, and what was found.
        """
        self._write()
        if sent(environment, self.figures()):
            environment.process_exit_code = 0
            return
        missing = gather(environment, self.add)
        total = environment.stats.total
        summary = {
            "requests": total.num_requests,
            "requests_per_s": round(total.total_rps, 1),
            "response_ms_average": round(total.avg_response_time, 1),
            "response_ms_p95": round(total.get_response_time_percentile(0.95), 1),
            **self.summarise(),
        }
        if self.options.summary:
            Path(self.options.summary).write_text(json.dumps(summary, indent=2) + "\n")
        console = Console(file=sys.stdout)
        table = Table("figure", "value", title=self.title, title_justify="left")
        for name, value in summary.items():
            table.add_row(name.replace("_", " "), f"{value:,.1f}" if isinstance(value, float) else f"{value:,}")
        console.print(table)
        checks = [*self._judge(summary), *more]
        if self._from_workers:
            checks.append(("figures of every worker", missing is None, missing or "all there"))
        audited, findings = self._audit()
        if findings:
            console.print(findings, highlight=False, markup=False, soft_wrap=True)
        found = {None: "not run", True: "holds", False: "VIOLATED"}[audited]
        checks.append(("audit", audited is not False, found))
        verdict = Table("verdict", "found", "", title_justify="left")
        for name, holds, found in checks:
            verdict.add_row(name, found, "ok" if holds else "FAILED")
        console.print(verdict)
        if not self.options.history and self._history_path is not None and audited:
            self._history_path.unlink()
        environment.process_exit_code = int(not all(holds for _, holds, _ in checks))

    def _write(self) -> None:
        """Write what this process saw to its files.

        Raises:
            SystemExit: if they cannot be written.
        """
        if self._history is not None:
            if self.options.complete:
                self.note(kind="complete", product=self.options.product)
            try:
                self._history.close()
            except OSError as error:
                raise SystemExit(f"{self._history_path}: {error.strerror}") from error
        if self.options.pulse and not self._from_workers:
            self.pulse.write(Path(f"{self.options.pulse}{self._suffix}"))

    def _judge(self, summary: dict[str, float | int]) -> list[tuple[str, bool, str]]:
        options, ended = self.options, sum(self.finals.values()) + self.counts["not_final"]
        success = self.finals["confirmed"] / ended if ended else 1.0
        p95_s = summary.get("202_to_final_ms_p95", 0) / 1000
        errors, accepted = summary["5xx_other_than_503"], summary["accepted"]
        return [
            (f"confirmed of accepted >= {options.min_success:.0%}", success >= options.min_success, f"{success:.1%}"),
            (f"202 to final, p95 <= {options.max_order_p95_s:g} s", p95_s <= options.max_order_p95_s, f"{p95_s:.1f} s"),
            (f"5xx other than 503 <= {options.max_5xx}", errors <= options.max_5xx, f"{errors}"),
            (f"accepted >= {options.min_accepted}", accepted >= options.min_accepted, f"{accepted}"),
            *(
                (f"{name.replace('_', ' ')} = 0", not summary[name], f"{summary[name]}")
                for name in ("unexpected_answers", "given_up", "not_final")
            ),
        ]

    def _audit(self) -> tuple[bool | None, str]:
        """Run the audit; None if there is none to run. Its findings: oversold units are violations of I1 and I2."""
        if self._from_workers:
            return None, "each worker has a history: put them together for `flashsale audit --history FILE`"
        if not self.options.audit or self._history_path is None:
            return None, f"no audit was run: set {DATABASE}, or run `flashsale audit --history FILE` where it is set"
        command = [*shlex.split(self.options.audit), "--history", str(self._history_path)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=AUDIT_TIMEOUT_S)  # noqa: S603
        return done.returncode == 0, (done.stdout + done.stderr).strip()


def percentile(values: list[float], share: float) -> float:
    """Return the value that `share` of the values do not exceed; 0.0 without values."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0
