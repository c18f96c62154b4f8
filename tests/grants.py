"""Which rights the statements of each kind of process need: from these `python tests/schema.py` writes `sql/grants.sql`.

Reads the statements below `sql/`, procrastinate's own, and the functions and triggers of a migrated database that they
reach. Every version of a function counts: processes of an older release call the older ones. What is found here is
checked by what runs: `tests/integration/test_database_roles.py` sells, sweeps and audits under these rights alone.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import procrastinate.sql

from flashsale.adapters.postgres.queries import load, sql_root

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import asyncpg

API, WORKER = "flashsale_api", "flashsale_worker"
ROLES = (API, WORKER)

FILES = {
    "queries/acceptance.sql": ROLES,
    "queries/administration.sql": (API,),
    "queries/archive.sql": (),
    "queries/audit.sql": (WORKER,),
    "queries/cells.sql": (),
    "queries/doctor.sql": ROLES,
    "queries/books.sql": (API,),
    "queries/buyers.sql": (API,),
    "queries/figures.sql": ROLES,
    "queries/found_orders.sql": (API,),
    "queries/gate_books.sql": ROLES,
    "queries/health.sql": ROLES,
    "queries/intents.sql": (WORKER,),
    "queries/jobs.sql": (WORKER,),
    "queries/manual.sql": (API,),
    "queries/moves.sql": (),
    "queries/orders.sql": ROLES,
    "queries/outbox.sql": (WORKER,),
    "queries/payments.sql": (WORKER,),
    "queries/products.sql": ROLES,
    "queries/refunds.sql": (WORKER,),
    "queries/replication.sql": ROLES,
    "queries/resets.sql": (API,),
    "queries/schema.sql": ROLES,
    "queries/story.sql": (API,),
    "queries/sessions.sql": ROLES,
    "queries/settlement.sql": (WORKER,),
    "queries/timeline.sql": ROLES,
    "queries/trail.sql": (API,),
    "queries/turns.sql": ROLES,
    "queries/upkeep.sql": (WORKER,),
    "queries/users.sql": (API,),
    "invariants.sql": ROLES,
    "invariants_recent.sql": ROLES,
}
"""Who runs the statements of a file."""

STATEMENTS: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(("accept", "replays", "end_orders", "request_payment"), (API,)),
    **dict.fromkeys(("create_product", "change_product", "set_allotment", "change_allotment"), (API,)),
    **dict.fromkeys(("process", "sweep", "due", "postpone", "forget_postponed", "count_postponed"), (WORKER,)),
    **dict.fromkeys(("close_sale", "archive_product", "product_page", "claimed_units", "places"), (API,)),
    **dict.fromkeys(("begin_intent", "lose", "wait", "receive"), (API,)),
    **dict.fromkeys(("open_intent", "origin_of_intent"), ROLES),
    **dict.fromkeys(("add_endpoint", "list_targets", "remove_endpoint", "dead_messages", "resend_messages"), ()),
    **dict.fromkeys(("payment_recorded", "refund_recorded", "payments_recorded"), (WORKER,)),
    **dict.fromkeys(("request", "withdraw", "request_own", "refunds_of", "set_refund", "refund_made"), (API,)),
    **dict.fromkeys(("open_pools", "tend_units", "put_off"), (WORKER,)),
    **dict.fromkeys(("claim_resets", "keep_code", "end_reset", "forget_resets"), (WORKER,)),
    "mark": ROLES,
    "product_numbers": ROLES,
    "I26_targets": (WORKER,),
    "create_staff": (),
    "set_role": (),
}
"""Who runs a statement, where it is not everybody who runs those of its file; nobody: the owner of the tables."""

PLACES = f"""\
DO $$
BEGIN
    IF NOT has_schema_privilege('{API}', current_schema(), 'USAGE') THEN
        EXECUTE format('GRANT USAGE ON SCHEMA %I TO {", ".join(ROLES)}', current_schema());
    END IF;
    -- What belongs to the database's owner is left to them: with Postgres 15 or newer nobody else may create there.
    IF (SELECT pg_has_role(datdba, 'USAGE') FROM pg_database WHERE datname = current_database()) THEN
        EXECUTE format('REVOKE TEMPORARY ON DATABASE %I FROM PUBLIC', current_database());
        EXECUTE format('REVOKE CREATE ON SCHEMA %I FROM PUBLIC', current_schema());
    END IF;
END;
$$;"""

BY_COLUMN = ("users", "outbox_targets")
"""Tables of which only the columns that are read may be read; of all tables only those that are written are written."""

_NOISE = re.compile(r"--[^\n]*|'(?:[^']|'')*'")
_LOCK = re.compile(r"\bFOR (?:NO KEY )?UPDATE\b(?: OF (\w+))?|\bFOR (?:KEY )?SHARE\b(?: OF (\w+))?")


@dataclass(slots=True)
class Schema:
    """What a migrated database has, as far as rights go."""

    columns: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    functions: dict[str, list[tuple[str, str, bool]]] = field(default_factory=lambda: defaultdict(list))
    """Signature, body, and whether it runs with its owner's rights, by name."""
    triggers: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    """Names of functions by table."""
    sequences: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    """Those from which columns of a table take their values."""


@dataclass(slots=True)
class Rights:
    """What a role may do."""

    tables: dict[tuple[str, str], set[str]] = field(default_factory=lambda: defaultdict(set))
    """Columns, by privilege and table."""
    locks: set[str] = field(default_factory=set)
    """Tables whose rows are locked."""
    functions: set[str] = field(default_factory=set)
    reached: set[str] = field(default_factory=set)
    """Names of functions that were looked into."""


async def read_schema(connection: asyncpg.Connection) -> Schema:
    """Read tables, functions, triggers and sequences."""
    schema = Schema()
    for row in await connection.fetch(
        """
        SELECT c.relname, a.attname FROM pg_class AS c
        INNER JOIN pg_attribute AS a ON c.oid = a.attrelid AND a.attnum > 0 AND NOT a.attisdropped
        WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind = 'r' ORDER BY c.relname, a.attnum
        """
    ):
        schema.columns[row["relname"]].append(row["attname"])
    for row in await connection.fetch(
        """
        SELECT p.proname, p.proname || '(' || pg_get_function_identity_arguments(p.oid) || ')' AS signature,
            coalesce(pg_get_function_sqlbody(p.oid), p.prosrc) AS body, p.prosecdef
        FROM pg_proc AS p WHERE p.pronamespace = current_schema()::regnamespace ORDER BY signature
        """
    ):
        schema.functions[row["proname"]].append((row["signature"], row["body"], row["prosecdef"]))
    for row in await connection.fetch(
        """
        SELECT t.tgrelid::regclass::text AS relname, p.proname FROM pg_trigger AS t
        INNER JOIN pg_proc AS p ON t.tgfoid = p.oid
        -- Triggers of copies alone are run by the owner of the tables.
        WHERE NOT t.tgisinternal AND t.tgenabled <> 'R'
        """
    ):
        schema.triggers[row["relname"]].append(row["proname"])
    for row in await connection.fetch(
        """
        SELECT d.refobjid::regclass::text AS relname, s.oid::regclass::text AS sequence FROM pg_class AS s
        INNER JOIN pg_depend AS d ON s.oid = d.objid AND d.deptype = 'a' WHERE s.relkind = 'S'
        """
    ):
        schema.sequences[row["relname"]].append(row["sequence"])
    return schema


OLDER = (("DELETE FROM outbox_targets WHERE target_id = 'mail' RETURNING target_id", (WORKER,)),)
"""Statements that only processes of an older release run, which run during a roll of releases."""


def statements() -> Iterator[tuple[str, tuple[str, ...]]]:
    """Return every statement with the roles that run it."""
    files = {
        f"{path.relative_to(sql_root())}" for path in [*sql_root().glob("queries/*.sql"), *sql_root().glob("inv*.sql")]
    }
    assert files == FILES.keys(), "say in tests/grants.py who runs the statements of each file"
    for file, roles in FILES.items():
        for name, query in load(file).items():
            yield query.text, STATEMENTS.get(name, roles)
    yield from OLDER
    for text in procrastinate.sql.queries.values():
        yield text, (WORKER,)


def rights_of(role: str, schema: Schema) -> Rights:
    """Find what the statements of a role need."""
    rights = Rights()
    for text, roles in statements():
        if role in roles:
            _look(text, schema, rights)
    for table in rights.locks:
        # A role that may lock rows may update at least one column.
        if not rights.tables["UPDATE", table]:
            rights.tables["UPDATE", table].add(schema.columns[table][-1])
    rights.tables["SELECT", "alembic_version"].update(schema.columns["alembic_version"])
    return rights


def _look(text: str, schema: Schema, rights: Rights) -> None:
    text = _NOISE.sub("''", text)
    aliases = {
        alias: table
        for table, alias in re.findall(
            r"\b(?:FROM|JOIN|UPDATE|USING|INTO)\s+(\w+)(?:\s+(?:AS\s+)?(\w+))?", text, re.IGNORECASE
        )
        if table in schema.columns
    }
    for table, columns in schema.columns.items():
        _look_at_table(text, table, columns, schema, rights)
    for lock in _LOCK.finditer(text):
        of = lock[1] or lock[2]
        nearest = [one for one in re.findall(r"\bFROM\s+(\w+)", text[: lock.start()]) if one in schema.columns]
        if of is None and not nearest:
            continue
        rights.locks.add(aliases.get(of, of) if of else nearest[-1])
    for name, versions in schema.functions.items():
        if re.search(rf"\b{name}\s*\(", text):
            _call(name, versions, schema, rights)


def _look_at_table(text: str, table: str, columns: list[str], schema: Schema, rights: Rights) -> None:
    verbs = rf"\b(INSERT\s+INTO|DELETE\s+FROM|(?<!FOR )(?<!KEY )UPDATE)\s+{table}\b"
    writing = list(re.finditer(verbs, text, re.IGNORECASE))
    for found in writing:
        verb, clause = found[1].split()[0].upper(), _clause(text[found.end() :])
        if verb == "INSERT":
            _look_at_insert(clause, table, columns, schema, rights)
        else:
            rights.tables[verb, table] |= _assigned(clause) if verb == "UPDATE" else {""}
            rights.tables["SELECT", table] |= set(columns) - _hidden(table)
    if re.search(rf"\b(?:FROM|JOIN|USING)\s+{table}\b", text, re.IGNORECASE):
        rights.tables["SELECT", table] |= _read(text, table, columns)
    for name in schema.triggers[table] if writing else ():
        if name not in rights.reached:
            rights.reached.add(name)
            # A trigger needs no right to be called, but what it does is done by who changed the row.
            for _, body, _ in schema.functions[name]:
                _look(body, schema, rights)


def _look_at_insert(clause: str, table: str, columns: list[str], schema: Schema, rights: Rights) -> None:
    named = re.match(r"\s*(?:AS\s+\w+\s*)?\(([^)]*)\)", clause, re.IGNORECASE)
    rights.tables["INSERT", table] |= set(re.findall(r"\w+", named[1])) if named else set(columns)
    if re.search(r"\bRETURNING\b|ON CONFLICT \(", clause, re.IGNORECASE):
        rights.tables["SELECT", table] |= set(columns) - _hidden(table)
    if update := re.search(r"\bDO UPDATE\b", clause, re.IGNORECASE):
        rights.tables["UPDATE", table] |= _assigned(clause[update.end() :])
    for sequence in schema.sequences[table]:
        rights.tables["USAGE", sequence].add("")


def _call(name: str, versions: list[tuple[str, str, bool]], schema: Schema, rights: Rights) -> None:
    stem = re.sub(r"_v\d+$", "", name)
    for other, of_other in schema.functions.items():
        if re.sub(r"_v\d+$", "", other) == stem and other not in rights.reached:
            rights.reached.add(other)
            for signature, body, by_owner in of_other:
                rights.functions.add(signature)
                if not by_owner:
                    _look(body, schema, rights)
    assert versions


def _clause(text: str) -> str:
    """Cut a text off where the statement, or the parenthesis around it, ends."""
    depth = 0
    for place, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if depth < 0 or letter == ";":
            return text[:place]
    return text


def _hidden(table: str) -> set[str]:
    return {"password_hash"} if table == "users" else set()


def _read(text: str, table: str, columns: list[str]) -> set[str]:
    """Return the columns of a table that a statement reads; all, unless the table is one of those that hold secrets."""
    if table not in BY_COLUMN:
        return set(columns)
    aliases = re.findall(rf"\b(?:FROM|JOIN)\s+{table}\s+AS\s+(\w+)", text, re.IGNORECASE)
    words = {word for alias in aliases for word in re.findall(rf"\b{alias}\.(\w+)", text)}
    return (words if aliases else set(re.findall(r"\w+", text))) & set(columns) - _hidden(table)


def _assigned(text: str) -> set[str]:
    """Return the columns to which `SET a = ..., b = ...` assigns; `text` begins before SET."""
    found = re.search(r"\bSET\b", text, re.IGNORECASE)
    assert found is not None, text
    depth, start, parts = 0, found.end(), []
    for match in re.finditer(r"[()\[\],]|\b(?:FROM|WHERE|RETURNING|CASE|END)\b|$", text[found.end() :], re.IGNORECASE):
        token = match[0].upper()
        if token in {"(", "[", "CASE"}:
            depth += 1
        elif token in {")", "]", "END"} and depth:
            depth -= 1
        elif depth == 0:
            parts.append(text[start : found.end() + match.start()])
            start = found.end() + match.end()
            if token != ",":
                break
    return {re.findall(r"\w+", part)[0] for part in parts}


def _lines(names: list[str]) -> str:
    return ",\n    ".join(names)


def written(schema: Schema) -> str:
    """Return the text of `sql/grants.sql`."""
    lines = [
        "-- The rights of the roles under which processes run. `python tests/schema.py` writes this file from what their",
        "-- statements touch; each migration ends with it. The two roles own nothing.",
        PLACES,
    ]
    functions = sorted(signature for versions in schema.functions.values() for signature, _, _ in versions)
    sequences = sorted(one for named in schema.sequences.values() for one in named)
    roles = ", ".join(ROLES)
    lines += [f"REVOKE ALL ON TABLE {', '.join(sorted(schema.columns))} FROM PUBLIC, {roles};"]
    lines += [f"REVOKE ALL ON SEQUENCE {', '.join(sequences)} FROM PUBLIC, {roles};"]
    lines += [f"REVOKE ALL ON FUNCTION\n    {_lines(functions)}\nFROM PUBLIC, {roles};"]
    for role in ROLES:
        rights = rights_of(role, schema)
        lines.append("")
        for (privilege, name), columns in sorted(rights.tables.items(), key=lambda item: (item[0][1], item[0][0])):
            if not columns:
                continue
            kind = "SEQUENCE " if privilege == "USAGE" else ""
            known = schema.columns.get(name, [])
            assert columns <= {"", *known}, (privilege, name, columns)
            some = columns != {""} and (privilege == "UPDATE" or columns != set(known))
            listed = f" ({', '.join(one for one in known if one in columns)})" if some else ""
            lines.append(f"GRANT {privilege}{listed} ON {kind}{name} TO {role};")
        lines.append(f"GRANT EXECUTE ON FUNCTION\n    {_lines(sorted(rights.functions))}\nTO {role};")
    return "\n".join([*lines, ""])
