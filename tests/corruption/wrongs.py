"""Wrong values, generated: of every column and row of a table, every field of a line, every key of the gate."""

from __future__ import annotations

import copy
import functools
import json
import zlib
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import UUID

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence

    import asyncpg
    from redis.asyncio import Redis

    from tests.corruption.sale import SoundSale

    Found = Callable[[], Awaitable[set[str]]]

DAYS = 3 * 24 * 3600


@dataclass(frozen=True, kw_only=True)
class Wrong:
    """A field, how it is wrong, and where."""

    field: str
    """`table.column`, `buy.field`, `ledger.field`, `gate:key`; `*` for the whole row or line."""
    how: str
    row: dict[str, Any]
    """The row or line as it was."""


# --- Postgres -------------------------------------------------------------------------------------------------------

UNGUARDED = """
DO $$ DECLARE one record; BEGIN
    FOR one IN SELECT conrelid::regclass AS t, conname FROM pg_constraint
        WHERE contype IN ('c', 'f', 'p', 'u') AND connamespace = 'public'::regnamespace AND conrelid <> 0
        ORDER BY contype = 'p'
    LOOP EXECUTE format('ALTER TABLE %s DROP CONSTRAINT IF EXISTS %I CASCADE', one.t, one.conname); END LOOP;
    FOR one IN SELECT indexrelid::regclass AS i FROM pg_index AS x INNER JOIN pg_class AS c ON x.indrelid = c.oid
        WHERE x.indisunique AND c.relnamespace = 'public'::regnamespace
    LOOP EXECUTE format('DROP INDEX %s', one.i); END LOOP;
    FOR one IN SELECT table_name AS t, column_name AS c, is_identity FROM information_schema.columns
        INNER JOIN information_schema.tables USING (table_schema, table_name)
        WHERE table_schema = 'public' AND table_type = 'BASE TABLE'
    LOOP
        IF one.is_identity = 'YES' THEN EXECUTE format('ALTER TABLE %I ALTER %I DROP IDENTITY', one.t, one.c); END IF;
        EXECUTE format('ALTER TABLE %I ALTER %I DROP NOT NULL', one.t, one.c);
    END LOOP;
    FOR one IN SELECT tgrelid::regclass AS t, tgname FROM pg_trigger WHERE tgenabled IN ('A', 'R')
    LOOP EXECUTE format('ALTER TABLE %s DISABLE TRIGGER %I', one.t, one.tgname); END LOOP;
END $$;
SET session_replication_role = replica;
"""
"""Corruption asks no constraint and no trigger."""

COLUMNS = """
SELECT c.table_name, c.column_name, CASE c.udt_name WHEN '_text' THEN 'names' WHEN '_bytea' THEN 'digests' ELSE c.data_type END
FROM information_schema.columns AS c
INNER JOIN information_schema.tables AS t USING (table_schema, table_name)
WHERE c.table_schema = 'public' AND t.table_type = 'BASE TABLE'
    AND c.table_name NOT LIKE 'procrastinate%' AND c.table_name <> 'alembic_version'
ORDER BY c.table_name, c.ordinal_position
"""

OTHER = {
    "integer": "coalesce({0}, 0) + 1",
    "bigint": "coalesce({0}, 0) + 1",
    "smallint": "coalesce({0}, 0) + 1",
    "text": "coalesce({0}, '') || 'x'",
    "boolean": "NOT coalesce({0}, false)",
    "uuid": "gen_random_uuid()",
    "bytea": "coalesce({0}, '') || '\\x00'",
    "jsonb": "'{{\"foreign\": 1}}'",
    "double precision": "coalesce({0}, 0) + 1",
    "interval": "coalesce({0}, interval '0') + interval '3 days'",
    # Of instants, and of names.
    "ARRAY": "ARRAY(SELECT one + interval '3 days' FROM unnest({0}) AS one)",
    "names": "{0} || ARRAY['x']",
    "digests": "{0} || ARRAY['\\x00'::bytea]",
}
INSTANT = "timestamp with time zone"


def _expressions(column: str, kind: str) -> Iterator[tuple[str, str]]:
    if kind == INSTANT:
        there = f"CASE WHEN isfinite({column}) THEN {column} ELSE now() END"
        yield "aged", f"{there} - interval '3 days'"
        yield "ahead", f"{there} + interval '3 days'"
    else:
        yield "changed", OTHER[kind].format(column)
    if kind == "bigint":
        # A sum or a product of it is beyond the type: the audit says so, and judges everything else.
        yield "huge", str(2**63 - 1)
    yield "missing", "NULL"


async def wrong_rows(
    session: asyncpg.Connection[Any], found: Found, victims_max: int
) -> AsyncIterator[tuple[Wrong, set[str]]]:
    """Falsify each column of each table, and whole rows; each is rolled back."""
    columns: dict[str, list[tuple[str, str]]] = {}
    for table, column, kind in await session.fetch(COLUMNS):
        columns.setdefault(table, []).append((column, kind))
    for table, named in columns.items():
        rows = await session.fetch(f"SELECT ctid, * FROM {table} ORDER BY ctid")
        if not rows:
            yield Wrong(field=f"{table}.*", how="never tried: no row", row={}), set()
        for wrong, row, statements in _statements(table, named, rows, victims_max):
            async with _undone(session):
                for statement, *arguments in statements:
                    await session.execute(statement, *arguments)
                yield Wrong(field=f"{table}.{wrong[0]}", how=wrong[1], row=_without(row)), await found()


def _statements(
    table: str, columns: Sequence[tuple[str, str]], rows: Sequence[Any], victims_max: int
) -> Iterator[tuple[tuple[str, str], Any, list[tuple[Any, ...]]]]:
    """Return each wrong (column, how), its row, and the statements that bring it about."""
    for column, kind in columns:
        update = f"UPDATE {table} SET {column} = {{}} WHERE ctid = $1"
        for how, expression in _expressions(column, kind):
            touched = [row for row in rows if how != "missing" or row[column] is not None]
            for row in _some(touched, victims_max, f"{table}.{column} {how}"):
                yield (column, how), row, [(update.format(expression), row["ctid"])]
        for row in _some(rows, victims_max, f"{table}.{column} swapped"):
            other = next((one for one in _from(rows, row) if one[column] != row[column]), None)
            if other is not None:
                swap = update.format("$2")
                yield (
                    (column, "swapped"),
                    row,
                    [(swap, row["ctid"], other[column]), (swap, other["ctid"], row[column])],
                )
    for how, statement in (
        ("deleted", f"DELETE FROM {table} WHERE ctid = $1"),
        ("doubled", f"INSERT INTO {table} SELECT * FROM {table} WHERE ctid = $1"),
    ):
        for row in _some(rows, victims_max, f"{table} {how}"):
            yield ("*", how), row, [(statement, row["ctid"])]


def _some(rows: Sequence[Any], most: int, salt: str) -> list[Any]:
    """Choose rows, the same ones each time, others for each field."""
    if len(rows) <= most:
        return list(rows)
    first = zlib.crc32(salt.encode()) % len(rows)
    return [rows[(first + i * max(1, len(rows) // most)) % len(rows)] for i in range(most)]


def _from(rows: Sequence[Any], row: Any) -> list[Any]:
    at = rows.index(row)
    return [*rows[at + 1 :], *rows[:at]]


def _without(row: Any) -> dict[str, Any]:
    return {name: str(value) if isinstance(value, UUID) else value for name, value in row.items() if name != "ctid"}


@asynccontextmanager
async def _undone(session: asyncpg.Connection[Any]) -> AsyncIterator[None]:
    inner = session.transaction()
    await inner.start()
    try:
        yield
    finally:
        await inner.rollback()


# --- lines: the clients' history, the gateway's ledger --------------------------------------------------------------


def wrong_lines(
    lines: Sequence[dict[str, Any]], name: Callable[[dict[str, Any]], str], victims_max: int
) -> Iterator[tuple[Wrong, list[dict[str, Any]]]]:
    """Falsify each field of each kind of line, and whole lines; returns all lines with the wrong one among them."""
    kinds: dict[str, list[int]] = {}
    for place, line in enumerate(lines):
        kinds.setdefault(name(line), []).append(place)
    for kind, places in kinds.items():
        for path in sorted({path for place in places for path in _paths(lines[place])}):
            field = f"{kind}.{'.'.join(path)}"
            there = [place for place in places if _get(lines[place], path) is not None]
            for place in _some(there, victims_max, field):
                value = _get(lines[place], path)
                for how, wrong in _wrong_values(path[-1], value):
                    yield Wrong(field=field, how=how, row=lines[place]), _with(lines, place, path, wrong)
                other = next((one for one in _from(there, place) if _get(lines[one], path) != value), None)
                if other is not None:
                    swapped = _with(lines, place, path, _get(lines[other], path))
                    yield (
                        Wrong(field=field, how="swapped", row=lines[place]),
                        _with(swapped, other, path, value),
                    )
            for place in _some([one for one in places if one not in there], victims_max, field):
                invented = _get(lines[there[0]], path) if there else 1
                yield Wrong(field=field, how="invented", row=lines[place]), _with(lines, place, path, invented)
        for place in _some(places, victims_max, kind):
            yield Wrong(field=f"{kind}.*", how="deleted", row=lines[place]), [*lines[:place], *lines[place + 1 :]]
            yield Wrong(field=f"{kind}.*", how="doubled", row=lines[place]), [*lines[: place + 1], *lines[place:]]


def _paths(line: dict[str, Any], *above: str) -> Iterator[tuple[str, ...]]:
    for name, value in line.items():
        if isinstance(value, dict):
            yield from _paths(value, *above, name)
        else:
            yield (*above, name)


def _get(line: Any, path: Sequence[str]) -> Any:
    for name in path:
        line = line.get(name) if isinstance(line, dict) else None
    return line


def _with(lines: Sequence[dict[str, Any]], place: int, path: Sequence[str], value: Any) -> list[dict[str, Any]]:
    changed = copy.deepcopy(list(lines))
    line = changed[place]
    for name in path[:-1]:
        line[name] = line.get(name) or {}
        line = line[name]
    line[path[-1]] = value
    return changed


def _wrong_values(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    if name.endswith("_at"):
        yield "aged", value - DAYS
        yield "ahead", value + DAYS
    elif isinstance(value, bool):
        yield "changed", not value
    elif isinstance(value, int | float):
        yield "changed", value + 1
    else:
        yield "changed", f"{value}x"
    yield "missing", None


# --- the gate -------------------------------------------------------------------------------------------------------


async def wrong_keys(redis: Redis, found: Found, victims_max: int) -> AsyncIterator[tuple[Wrong, set[str]]]:
    """Falsify each key of the gate and what it holds; each is restored."""
    keys = sorted([key async for key in redis.scan_iter("flashsale:*")])
    # Counts of a window of time end by themselves, on a slow machine during this.
    keys = [key for key in keys if await redis.persist(key) or await redis.exists(key)]
    for key in keys:
        short = key.split("}:")[-1].split(":")[0]
        kind = await redis.type(key)
        dump = await redis.execute_command("DUMP", key, NEVER_DECODE=True)
        for how, wrong in await _falsified(redis, key, kind, victims_max):
            ttl = max(0, await redis.pttl(key))
            await wrong()
            yield Wrong(field=f"gate:{short}", how=how, row={"key": key}), await found()
            await redis.execute_command("RESTORE", key, ttl, dump, "REPLACE")
            assert await found() == set(), f"{key} is as it was"


async def _falsified(
    redis: Any, key: str, kind: str, victims_max: int
) -> list[tuple[str, Callable[[], Awaitable[Any]]]]:
    async def foreign() -> None:
        await redis.delete(key)
        await (redis.rpush(key, "x") if kind != "list" else redis.set(key, "x"))

    wrongs: list[tuple[str, Callable[[], Awaitable[Any]]]] = [
        ("missing", lambda: redis.delete(key)),
        ("foreign type", foreign),
    ]
    if kind == "string":
        value = await redis.get(key)
        for how, wrong in (("one more", _plus(value, 1)), ("one less", _plus(value, -1)), ("no number", "x")):
            wrongs.append((how, lambda wrong=wrong: redis.set(key, wrong, keepttl=True)))
    elif kind == "hash":
        entries = sorted((await redis.hgetall(key)).items())
        for name, value in _some(entries, victims_max, key):
            wrongs += [
                ("field missing", lambda name=name: redis.hdel(key, name)),
                ("field one more", lambda name=name, value=value: redis.hset(key, name, _plus(value, 1))),
                ("field nonsense", lambda name=name: redis.hset(key, name, "x")),
            ]
        wrongs.append(("foreign field", lambda: redis.hset(key, "x", "9")))
    elif kind == "set":
        for member in _some(sorted(await redis.smembers(key)), victims_max, key):
            wrongs.append(("member missing", lambda member=member: redis.srem(key, member)))
        wrongs.append(("foreign member", lambda: redis.sadd(key, "x")))
    elif kind == "zset":
        for member, score in _some(sorted(await redis.zrange(key, 0, -1, withscores=True)), victims_max, key):
            wrongs += [
                ("member missing", lambda member=member: redis.zrem(key, member)),
                ("deadline far", lambda member=member, score=score: redis.zadd(key, {member: score + DAYS * 1000})),
                ("deadline past", lambda member=member, score=score: redis.zadd(key, {member: score - DAYS * 1000})),
            ]
        wrongs.append(("foreign member", lambda: redis.zadd(key, {"x": 1})))
    return wrongs


def _plus(value: str, by: int) -> str:
    """Change the number that a value begins with."""
    digits = len(value) - len(value.lstrip("0123456789"))
    return f"{int(value[:digits]) + by}{value[digits:]}" if digits else f"{value}x"


# --- all ------------------------------------------------------------------------------------------------------------


async def everything(
    sale: SoundSale,
    session: asyncpg.Connection[Any],
    redis: Redis,
    audit: Callable[..., Awaitable[set[str]]],
    *,
    victims_max: int,
) -> AsyncIterator[tuple[Wrong, set[str]]]:
    """Try every wrong value; returns each with the invariants that it violates."""
    async for tried in wrong_rows(session, audit, victims_max):
        yield tried
    for wrong, lines in wrong_lines(sale.history, lambda line: line["kind"], victims_max):
        yield wrong, await audit("history", [json.dumps(line) for line in lines])
    for wrong, lines in wrong_lines(sale.gateway.true_lines(), lambda _: "ledger", victims_max):
        sale.gateway.lines = lines
        try:
            yield wrong, await audit("ledger")
        finally:
            sale.gateway.lines = None
    async for tried in wrong_keys(redis, functools.partial(audit, "gate"), victims_max):
        yield tried
