"""The page about scaling: its figures are those of the measured documents, and its commands and panels exist."""

from __future__ import annotations

import re

import pytest
import yaml

from flashsale.settings.groups import PostgresSettings
from tests.unit.test_docs import ROOT

PAGE = (ROOT / "docs/how-to/scale.md").read_text()
MEASURED = (
    "docs/reference/performance.md",
    "docs/explanation/performance.md",
    "docs/explanation/growth.md",
    "docs/adr/0007-jobs-are-taken-and-ended-in-groups.md",
    "docs/how-to/survive-a-machine.md",
    "docs/adr/0025-wrong-logins-wait-and-keep-nobody-else-out.md",
    "docs/reference/settings.md",
    "docker/compose.yaml",
)
NUMBER = re.compile(r"\d+(?:,\d{3})*(?:\.\d+)?")
STEPS = PAGE.partition("## Which step, at which load")[2].partition("\n\nThe panels")[0]
ROWS = [[cell.strip() for cell in line.split("|")[1:-1]] for line in STEPS.splitlines() if line.startswith("| ")][1:]


def numbers(text: str) -> set[str]:
    return set(NUMBER.findall(text))


@pytest.mark.parametrize("row", ROWS, ids=[row[1] for row in ROWS])
def test_each_figure_of_a_step_is_a_measured_one(row):
    known = numbers("".join((ROOT / path).read_text() for path in MEASURED))
    found = numbers(row[2])
    assert found, "a step without a figure"
    assert found <= known, f"nothing measured says {found - known}"


def test_an_invented_figure_is_found():
    assert numbers("31,886/s or 7.25 KiB") - numbers((ROOT / MEASURED[0]).read_text()) == {"31,886", "7.25"}


def test_the_connections_are_those_of_the_default_containers():
    services = yaml.safe_load((ROOT / "docker/compose.yaml").read_text())["services"]
    pool_max = PostgresSettings().pool_max
    of_api, of_worker = pool_max + 1, 2 * pool_max + 1
    assert f"{of_api} connections for each API process, {of_worker} for each worker process" in PAGE
    opened = {"api": of_api, "sse": of_api, "orders": of_worker, "payments": of_worker, "maintenance": of_worker}
    replicas = {name: services[name]["deploy"].get("replicas", "1") for name in opened}
    default = {name: int(re.sub(r"\$\{\w+:-(\d+)\}", r"\1", count)) for name, count in replicas.items()}
    total = sum(count * opened[name] for name, count in default.items())
    assert f"defaults open at most {total} of 300" in PAGE
    assert "max_connections=300" in services["postgres"]["command"]


def test_each_measure_that_a_document_names_exists():
    code = (ROOT / "tests/bench/__main__.py").read_text()
    measures = set(re.findall(r'^    "([\w-]+)": \w+,$', code, re.MULTILINE))
    for path in (ROOT / "docs").rglob("*.md"):
        for line in path.read_text().splitlines():
            if "tests.bench" in line or "-s bench" in line:
                assert set(re.findall(r"--only ([\w-]+)", line)) <= measures, f"{path.name}: {line}"


def test_each_session_that_a_document_names_exists():
    sessions = set(re.findall(r"^def (\w+)\(session", (ROOT / "noxfile.py").read_text(), re.MULTILINE)) | {"tests-on"}
    for path in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]:
        named = set(re.findall(r"nox -s ([\w-]+)", path.read_text()))
        assert named <= sessions, f"{path.name} names {named - sessions}"
