"""Run the shell blocks of the documents literally, in a copy of the checkout: `nox -s docs`.

A block under a comment `<!-- not run: reason -->` is left out and listed with its reason. `flashsale up` runs in the
background until the document ends. Only the port differs: 8000 becomes a free one. Example:

    python -m tests.documents docs/tutorial/first-sale.md
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import venv
from dataclasses import dataclass
from pathlib import Path

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

ROOT = Path(__file__).parents[2]
DOCUMENTS = ("README.md", "docs/tutorial/first-sale.md")
BLOCK = re.compile(r"(?:<!-- not run: (?P<reason>[^\n]*?) -->\n+)?```sh\n(?P<text>.*?)```\n", re.DOTALL)
LONGEST_S = 600

UP = """
coproc UP {{ exec flashsale up --port {port} 2>&1; }}
while read -r line <&"${{UP[0]}}"; do case $line in *Ctrl-C*) break ;; esac; done
trap 'kill -INT $UP_PID; wait $UP_PID || true' EXIT
"""
"""What `flashsale up` becomes: it runs in the background of the blocks below it, and ends with them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A shell block of a document."""

    line: int
    text: str
    not_run: str | None


def blocks(document: str) -> list[Block]:
    """Return the shell blocks of a document, in order."""
    return [
        Block(line=document.count("\n", 0, found.start("text")), text=found["text"], not_run=found["reason"])
        for found in BLOCK.finditer(document)
    ]


def script(found: list[Block], port: int) -> str:
    """Put the blocks that are run into one bash script that names each before it begins."""
    parts = ["set -euo pipefail"]
    for number, block in enumerate(found):
        if block.not_run is None:
            text = re.sub(r"(localhost|127\.0\.0\.1):8000", rf"\1:{port}", block.text)
            parts.append(f"echo '== {number}' >&2\n" + re.sub(r"(?m)^flashsale up$", UP.format(port=port), text))
    return "\n".join(parts)


def checkout(folder: Path) -> None:
    """Copy what git tracks, and what it would track."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)


def fresh_environment(folder: Path) -> dict[str, str]:
    """Make a new virtual environment, so that nothing of this one is found; returns the environment that finds it."""
    venv.create(folder / ".venv", with_pip=True)
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("VIRTUAL_ENV", "FLASHSALE_", "NOX_"))
    }
    return {**kept, "PATH": f"{folder / '.venv' / 'bin'}{os.pathsep}{os.environ['PATH']}"}


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@click.command()
@click.argument("names", nargs=-1, type=click.Path())
def main(names: tuple[str, ...]) -> None:
    """Run the shell blocks of the documents NAMES, or of all that are for users; exit code 1 if one fails."""
    console = Console(width=120)
    table = Table("document", "line", "first command", "result", title="shell blocks of the documents")
    failed = False
    for name in names or DOCUMENTS:
        found = blocks((ROOT / name).read_text())
        with tempfile.TemporaryDirectory(prefix="flashsale-docs-") as folder:
            checkout(Path(folder))
            began_s = time.monotonic()
            done = subprocess.run(
                ["bash", "-c", script(found, free_port())],
                cwd=folder,
                env=fresh_environment(Path(folder)),
                capture_output=True,
                text=True,
                check=False,
                timeout=LONGEST_S,
            )
        reached = [int(number) for number in re.findall(r"(?m)^== (\d+)$", done.stderr)]
        for number, block in enumerate(found):
            result = "ran"
            if block.not_run is not None:
                result = f"not run: {block.not_run}"
            elif number not in reached:
                result = "not reached"
            elif done.returncode and number == reached[-1]:
                result = f"FAILED with {done.returncode}"
            table.add_row(name, str(block.line), escape(block.text.splitlines()[0][:60]), result)
        if done.returncode:
            failed = True
            console.print(f"{name}:", done.stdout[-2000:], done.stderr[-4000:], markup=False, highlight=False)
        console.print(f"{name}: {time.monotonic() - began_s:.0f} s")
    console.print(table)
    sys.exit(failed)


if __name__ == "__main__":
    main()
