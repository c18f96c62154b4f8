"""docker/.env: secrets, addresses and numbers of containers, for `docker/deploy`. Needs nothing but Python."""

from __future__ import annotations

import difflib
import os
import re
import secrets
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

EXAMPLE = "change-me"
FORMS = {
    r"(ACCOUNT|ADDRESS)_\w+|\w+_(CONTAINERS|PROCESSES)|NOFILE": (r"[1-9]\d{0,8}", "a whole number from 1 up"),
    r"\w+_CPUS": (r"\d{1,3}(\.\d+)?", "a number of cores"),
    r"LISTEN(_TLS)?": (
        r"((\[[0-9a-fA-F:]+\]|[\d.]+):)?\d{1,5}",
        "an address and a port, such as 0.0.0.0:80 or [::]:80",
    ),
    r"NGINX_VERSION": (r"\d+(\.\d+)*[\w.-]*", "a tag, such as 1.30"),
    r"ADMIN_EMAIL": (r"[^@\s]+@[^@\s]+", "an e-mail address"),
}
"""Of values that no process checks: a pattern of the variable, the pattern of its value, what it is."""


def read_environment(path: Path, example_file: Path, files: list[Path], say: Callable[[str], None]) -> dict[str, str]:
    """Read the variables, with random secrets if there is no file; ends with a line for each that is wrong."""
    example = example_file.read_text()
    if not path.exists():
        text = re.sub(rf"(?m)(?<==){EXAMPLE}\S*$", lambda _: secrets.token_urlsafe(32), example)
        path.touch(mode=0o600, exist_ok=False)
        path.write_text(text)
        say(f"made {path} with random secrets")
    if new := add_new_secrets(path, example):
        say(f"{path}: added {', '.join(new)}")
    pairs = (line.split("=", 1) for line in path.read_text().splitlines() if re.match(r"\w+=", line))
    values = {name: os.environ.get(name, unquoted(value)) for name, value in pairs}
    known = set(re.findall(r"(?m)^#?(\w+)=", example)) | {"TAG", "TAG_BEFORE"}
    for file in files:
        known.update(re.findall(r"\$\{(\w+)", file.read_text()), re.findall(r"\b(FLASHSALE_\w+)", file.read_text()))
    if wrong := [
        f"{path}: {name} {what}"
        for name, value in values.items()
        if (what := fault(name, value, known, example_file.parent))
    ]:
        sys.exit("\n".join(wrong))
    return values


def unquoted(value: str) -> str:
    """Return a value of the file as Compose reads it."""
    found = re.fullmatch(r"""(['"])(.*)\1\s*(?:#.*)?""", value)
    return found[2] if found else re.sub(r"\s+#.*", "", value).strip()


def fault(name: str, value: str, known: set[str], folder: Path) -> str:
    """Say what is wrong with a variable of the file; empty if nothing is."""
    if EXAMPLE in value:
        return "still holds the example's value"
    if name not in known and not name.startswith("COMPOSE_"):
        similar = difflib.get_close_matches(name, known, n=1)
        return "is used by nothing" + (f"; did you mean {similar[0]}?" if similar else "")
    for names, (form, described) in FORMS.items():
        if value and re.fullmatch(names, name) and not re.fullmatch(form, value):
            return f"is {value}; expected {described}"
    if name == "CERTIFICATES" and value and not (folder / value / "fullchain.pem").is_file():
        return f"is {value}; expected a folder that holds fullchain.pem"
    return ""


def add_new_secrets(path: Path, example: str) -> list[str]:
    """Add the passwords of database users that a file of an earlier release does not have; returns their names."""
    text = path.read_text()
    names = re.findall(rf"(?m)^(\w+_POSTGRES_PASSWORD)={EXAMPLE}", example)
    new = {name: secrets.token_urlsafe(32) for name in names if f"{name}=" not in text}
    write(path, **new)
    return list(new)


def write(path: Path, **values: str) -> None:
    """Set variables in the file, in their old lines or at the end."""
    text = path.read_text().removesuffix("\n") + "\n"
    for name, value in values.items():
        line = f"{name}={value}\n"
        text = re.sub(rf"(?m)^{name}=.*\n", line, text) if re.search(rf"(?m)^{name}=", text) else text + line
    path.write_text(text)
