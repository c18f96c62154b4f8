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
NOTED = {"TAG", "TAG_BEFORE"}
"""What `docker/deploy` itself notes in the file."""
UP_TO_65535 = r"(?!0)(\d{1,4}|[1-5]\d{4}|6[0-4]\d{3}|65[0-4]\d\d|655[0-2]\d|6553[0-5])"
IP_V4 = r"(25[0-5]|2[0-4]\d|1?\d?\d)(\.(25[0-5]|2[0-4]\d|1?\d?\d)){3}"
PLACE = rf"(\[[0-9a-fA-F:.]+\]|[\w.-]+):{UP_TO_65535}"
CELL = rf"(1?[1-9]\d|[1-9]|10\d)={PLACE},{PLACE}"
FORMS = {
    r"ADDRESS_CONNECTIONS": (UP_TO_65535, "a whole number from 1 to 65535"),
    r"(ACCOUNT|ADDRESS)_\w+|\w+_(CONTAINERS|PROCESSES)|NOFILE": (r"[1-9]\d{0,8}", "a whole number from 1 up"),
    r"\w+_CPUS": (r"\d{1,3}(\.\d+)?", "a number of cores"),
    r"LISTEN(_TLS)?": (
        rf"((\[[0-9a-fA-F:]+\]|{IP_V4}):)?{UP_TO_65535}",
        "an address and a port, such as 0.0.0.0:80 or [::]:80",
    ),
    r"HOSTS": (r"[\w*.-]+( +[\w*.-]+)*", "names of hosts with blanks between them, without a scheme or port"),
    r"CELLS": (
        rf"(?!(.* )?(\d+)=.* \2=){CELL}( +{CELL})*",
        "for each further cell its number once, its API and its streams, such as 1=api.one:8000,sse.one:8000",
    ),
    r"FLASHSALE_CELL__NUMBER": (r"0|1?[1-9]\d|[1-9]|10\d", "a whole number from 0 to 199"),
    r"NGINX_VERSION": (r"\d+(\.\d+)*[\w.-]*", "a tag, such as 1.30"),
    r"ADMIN_EMAIL": (r"[^@\s]+@[^@\s]+", "an e-mail address"),
}
"""Of values that no process checks beforehand: a pattern of the variable, the pattern of its value, what it is."""


def read_environment(path: Path, example_file: Path, files: list[Path], say: Callable[[str], None]) -> dict[str, str]:
    """Read the variables, with random secrets if there is no file; ends with a line for each that is wrong."""
    try:
        example = example_file.read_text()
        composed = "".join(file.read_text() for file in files)
        if not path.exists():
            text = re.sub(rf"(?m)(?<==){EXAMPLE}\S*$", lambda _: secrets.token_urlsafe(32), example)
            path.touch(mode=0o600, exist_ok=False)
            path.write_text(text)
            say(f"made {path} with random secrets")
        if new := add_new_secrets(path, example):
            say(f"{path}: added {', '.join(new)}")
        values, wrong = read_lines(path.read_text())
    except (OSError, UnicodeDecodeError) as error:
        sys.exit(f"docker/deploy: {error}")
    offered = set(re.findall(r"(?m)^#?(\w+)=", example))
    # As for Compose, what the shell has comes first. The release is noted in the file alone.
    values |= {name: os.environ[name] for name in (offered | values.keys()) - NOTED if name in os.environ}
    known = offered | NOTED | {*re.findall(r"(?<!\$)\$\{?(\w+)", composed), *re.findall(r"\bFLASHSALE_\w+", composed)}
    wrong += [
        f"{name} {what}" for name, value in values.items() if (what := fault(name, value, known, example_file.parent))
    ]
    needed = re.findall(r"(?m)^(\w+)=", example)
    unread = {one.partition(" ")[0] for one in wrong}
    wrong += [f"{name} is missing or empty" for name in needed if name not in unread and not values.get(name)]
    if wrong:
        sys.exit("\n".join(f"{path}: {one}" for one in wrong))
    return values


def read_lines(text: str) -> tuple[dict[str, str], list[str]]:
    """Return the values in the file as Compose reads them, and what in it Compose may read in another way."""
    values: dict[str, str] = {}
    wrong = []
    for number, line in enumerate(text.splitlines(), 1):
        found = re.fullmatch(r"""(\w+)=(?:'([^']*)'|"([^"\\]*)"|([^'"].*?|))(?:\s+#.*|\s*)""", line)
        if found is None:
            if line.strip() and not line.lstrip().startswith("#"):
                begins = re.match(r"\w+(?==)", line)
                what = "has a quotation mark that ends nowhere, or a backslash in double ones; use single ones"
                wrong.append(f"{begins[0]} {what}" if begins else f"line {number} is no NAME=value")
            continue
        name, literal, double, bare = found.groups()
        value = literal
        if literal is None:
            value = re.sub(r"\$\{(\w+)\}", lambda one: values.get(one[1], one[0]), bare if double is None else double)
            if "$" in value:
                wrong.append(f"{name} has a $, for which Compose puts in a variable; put the value into single quotes")
        values[name] = value
    return values, wrong


def fault(name: str, value: str, known: set[str], folder: Path) -> str:
    """Say what is wrong with a variable of the file; empty if nothing is."""
    if EXAMPLE in value:
        return "still holds the example's value"
    if name not in known and not name.startswith("COMPOSE_"):
        similar = difflib.get_close_matches(name, known, n=1, cutoff=0.8)
        # A setting that Compose hands to no container, or a slip of the pen.
        more = "; a Compose file of your own may use it (-f)" if name.startswith("FLASHSALE_") and not similar else ""
        return "is used by nothing" + (f"; did you mean {similar[0]}?" if similar else more)
    for names, (form, described) in FORMS.items():
        if value and re.fullmatch(names, name) and not re.fullmatch(form, value, re.ASCII):
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
