"""The table of HTTP's demands names tests that exist, with parameters that exist."""

import re
from pathlib import Path

import pytest

from tests.unit import test_http_connection

ROOT = Path(__file__).parents[2]
ROWS = re.findall(
    r"\| `(?:(\S+)::)?(test_\w+)`(?: \[([^\]]+)\])? \|", (ROOT / "docs/reference/http-conformance.md").read_text()
)


@pytest.mark.parametrize(("file", "name", "parameter"), ROWS)
def test_a_demand_of_http_is_tested_where_the_table_says(file, name, parameter):
    assert f"def {name}(" in (ROOT / (file or "tests/unit/test_http_connection.py")).read_text()
    if parameter:
        (mark,) = getattr(test_http_connection, name).pytestmark
        assert parameter in mark.args[1]


def test_the_table_has_all_its_rows():
    assert len(ROWS) > 40
