"""Every wrong value: `python -m tests.corruption [ROWS]` prints the table; exit code 1 if the audit missed one.

Each is tried in at most so many rows; by default in all.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from pathlib import Path

import structlog

from flashsale.local.postgres_server import LocalPostgres
from flashsale.local.valkey_server import LocalValkey
from flashsale.usecases import gate_audit
from tests.conftest import TEMPLATE, alembic, execute, make_settings, with_database
from tests.corruption.judge import judge


async def main() -> int:
    """Start servers, make the sale, try everything."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    # No wait: a wrong value does not correct itself.
    gate_audit.LAG_S, gate_audit.RETURN_S = -1e9, 1e9
    with tempfile.TemporaryDirectory(prefix="flashsale-") as folder:
        postgres, valkey = LocalPostgres(Path(folder) / "pg"), LocalValkey(Path(folder) / "valkey")
        await postgres.start()
        await valkey.start()
        try:
            await execute(postgres.url, f"CREATE DATABASE {TEMPLATE}")
            url = with_database(postgres.url, TEMPLATE)
            done = await asyncio.to_thread(alembic, url, "upgrade", "head")
            if done.returncode:
                sys.stderr.write(done.stderr)
                return 1
            began_s = time.monotonic()
            table = await judge(
                make_settings(url, valkey.url), victims_max=int(sys.argv[1]) if len(sys.argv) > 1 else 1000
            )
            print(table.summary(), f"{time.monotonic() - began_s:.0f} s", *table.missed, sep="\n")  # noqa: T201
            return int(bool(table.missed))
        finally:
            await valkey.stop()
            await postgres.stop()


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
