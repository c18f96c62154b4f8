"""Run schemathesis as its users do, and count what was answered."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import httpx

from tests.conftest import of_this_checkout

CONFIG = """
max-stream-events = 1
request-timeout = 20.0
continue-on-failure = true
suppress-health-check = ["all"]
headers = {{ {headers} }}

[cache]
enabled = false

[generation]
no-shrink = true

[phases.stateful]
max-steps = 8
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What one caller asked and was answered."""

    failed: bool
    text: str
    answers: Counter[tuple[str, str, str, int]]
    """How often, by operation, phase, mode and status."""


def ask(
    document: str,
    headers: dict[str, str],
    folder: Path,
    *,
    examples: int,
    phases: str,
    seed: int,
    base_url: str | None = None,
) -> Report:
    """Make requests with these headers, valid and invalid, and hold each answer to the document at an address."""
    folder.mkdir(parents=True, exist_ok=True)
    answers, config = folder / "answers.tsv", folder / "schemathesis.toml"
    answers.write_text("")
    lines = ", ".join(f'"{name}" = "{value}"' for name, value in headers.items())
    config.write_text(CONFIG.format(headers=lines))
    command = [
        str(Path(sys.executable).with_name("schemathesis")), "--config-file", str(config), "run", document,
        "--max-examples", str(examples), "--phases", phases, "--seed", str(seed),
        *(["--url", base_url] if base_url else []),
        # It would end the token that all the other requests carry.
        *(["--exclude-path", "/api/auth/logout"] if headers else []),
    ]  # fmt: skip
    nobody = {} if headers else {"NOBODY": "1"}
    environment = of_this_checkout(
        SCHEMATHESIS_HOOKS="tests.contract.hooks", ANSWERS=str(answers), NO_COLOR="1", **nobody
    )
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    rows = [line.split("\t") for line in answers.read_text().splitlines()]
    counted = Counter((name, phase, mode, int(status)) for name, phase, mode, status in rows)
    return Report(failed=done.returncode != 0, text=done.stdout + done.stderr, answers=counted)


def seed_products(base_url: str, admin: dict[str, str]) -> None:
    """Make products that can be bought, and whose orders wait for their buyer."""
    body = {"name": "Phone", "price": "1", "stock": 1000, "paymentMode": "by_buyer"}
    for _ in range(3):
        httpx.post(f"{base_url}/api/admin/products", json=body, headers=admin, timeout=30).raise_for_status()


def table(reports: dict[str, Report]) -> str:
    """Show how often each operation gave each status, by caller, and what each phase tried."""
    lines = []
    names = sorted({name for report in reports.values() for name, *_ in report.answers})
    for name in names:
        cells = []
        for who, report in reports.items():
            found: Counter[int] = Counter()
            for (asked, _, _, status), count in report.answers.items():
                found[status] += count if asked == name else 0
            cells.append(f"{who}: " + " ".join(f"{status}x{count}" for status, count in sorted((+found).items())))
        lines.append(f"{name:55} | " + " | ".join(cells))
    for who, report in reports.items():
        phases: Counter[str] = Counter()
        for (_, phase, mode, _), count in report.answers.items():
            phases[f"{phase}/{mode}"] += count
        lines.append(f"{who}: {sum(phases.values())} requests: {dict(sorted(phases.items()))}")
    return "\n".join(lines)
