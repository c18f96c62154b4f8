"""Write down what the migrations make: `python tests/schema.py`.

Writes `sql/schema.txt`, the digest of every object of a migrated database, which processes compare with theirs, and
`sql/grants.sql`, the rights of the roles under which they run (`tests/grants.py`). With `--release` also adds the SQL files that are new to `sql/released.txt`: from then on they never change.
"""

from __future__ import annotations

import asyncio
import hashlib
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import asyncpg

from flashsale.adapters.postgres.schema import Expected, read_schema
from flashsale.local.postgres_server import LocalPostgres
from tests import grants
from tests.conftest import ROOT, alembic

SCHEMA = ROOT / "sql" / "schema.txt"
GRANTS = ROOT / "sql" / "grants.sql"
RELEASED = ROOT / "sql" / "released.txt"
FROZEN = ("sql/functions/*.sql", "sql/vendor/*.sql", "migrations/versions/*.py")


def written(schema: Expected) -> str:
    """Return the text of `sql/schema.txt`."""
    lines = [f"{digest} {name}" for name, digest in sorted(schema.objects.items())]
    return "\n".join([f"revision {schema.revision}", *lines, ""])


async def schema_of(url: str) -> Expected:
    """Read a database's schema as a process does."""
    connection = await asyncpg.connect(url)
    try:
        found = await read_schema(lambda query: connection.fetch(query.text))
    finally:
        await connection.close()
    assert found is not None
    return found


async def grants_of(url: str) -> str:
    """Return the text of `sql/grants.sql` for a migrated database."""
    connection = await asyncpg.connect(url)
    try:
        return grants.written(await grants.read_schema(connection))
    finally:
        await connection.close()


def released() -> dict[str, str]:
    """Return the digest of each released file."""
    return {name: digest for digest, name in (line.split(" ", 1) for line in RELEASED.read_text().splitlines())}


def digests() -> dict[str, str]:
    """Return the digest of each file that cannot change once it is released."""
    paths = [path for pattern in FROZEN for path in ROOT.glob(pattern)]
    return {str(path.relative_to(ROOT)): hashlib.sha256(path.read_bytes()).hexdigest()[:16] for path in sorted(paths)}


async def main(*, release: bool) -> None:
    """Migrate a new database and write the files."""
    with tempfile.TemporaryDirectory(prefix="flashsale-schema-") as folder:
        server = LocalPostgres(Path(folder))
        try:
            url = await server.start()
            # Without the rights that are written down, which may name what is gone.
            old = GRANTS.read_text()
            GRANTS.write_text("")
            try:
                done = alembic(url, "upgrade", "head")
            finally:
                GRANTS.write_text(old)
            if done.returncode:
                sys.exit(done.stderr)
            SCHEMA.write_text(written(await schema_of(url)))
            GRANTS.write_text(await grants_of(url))
        finally:
            await server.stop()
    if release:
        known = {**digests(), **(released() if RELEASED.exists() else {})}
        RELEASED.write_text("".join(f"{digest} {name}\n" for name, digest in sorted(known.items())))


if __name__ == "__main__":
    asyncio.run(main(release="--release" in sys.argv[1:]))
