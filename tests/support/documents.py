"""Tables of documents."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def rows(section):
    """The first column of a table of docs/explanation/growth.md."""
    text = (ROOT / "docs/explanation/growth.md").read_text().partition(f"## {section}\n")[2].partition("\n## ")[0]
    return re.findall(r"^\| `?([^`|]+?)`? \|", text, re.MULTILINE)[1:]
