"""The SQL of the documents can be run: each statement is prepared on a migrated database."""

from __future__ import annotations

import re

import asyncpg

from tests.conftest import ROOT

OF_SHELL = re.compile(r'\bsql "([^"]+)"')
OF_TEXT = re.compile(r"`((?:SELECT|UPDATE|DELETE) [^`]+)`")
OF_BLOCK = re.compile(r"^ *```sql\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
NOT_PREPARED = ("ALTER ", "CREATE ")
EXAMPLES = {"'ID'": "gen_random_uuid()", "(PID)": "(0)", " = ...": " = gen_random_uuid()"}


def statements():
    """Yield each statement of the how-to guides, with the name of its page."""
    for path in sorted((ROOT / "docs/how-to").glob("*.md")):
        text = path.read_text()
        found = OF_SHELL.findall(text) + OF_TEXT.findall(text)
        for block in OF_BLOCK.findall(text):
            found += re.sub(r"--.*", "", block).split(";")
        for statement in map(" ".join, map(str.split, found)):
            if statement and not statement.startswith(NOT_PREPARED):
                yield path.name, statement


async def test_each_statement_of_the_how_to_guides_can_be_prepared(db):
    failed, tried = {}, 0
    for page, statement in statements():
        tried += 1
        text = statement
        for example, value in EXAMPLES.items():
            text = text.replace(example, value)
        try:
            await db.prepare(text)
        except asyncpg.PostgresError as error:
            failed[page, statement] = str(error)
    assert not failed
    assert tried > 20
