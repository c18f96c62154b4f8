"""A database on any server is backed up by its URL and restored: living data only if they are named, and never in part."""

import asyncio
import resource
import subprocess
import sys
import uuid

import asyncpg
import pytest

from flashsale.bootstrap.servers import schema_fingerprint, schema_revision
from flashsale.local.backup import restore as restore_stack
from flashsale.local.children import ChildFailed
from flashsale.local.server_backup import backup_server, restore_server
from flashsale.simulator.split import split_ledger
from tests.conftest import ROOT, execute, of_this_checkout, with_database
from tests.support.charging import waiting_order
from tests.support.refunding import paid_order


async def backup(file, url):
    return await backup_server(url, file, ledger=None, schema_of=schema_fingerprint)


async def restore(file, url, *, overwrite=None):
    await restore_server(
        url,
        file,
        overwrite=overwrite,
        ledger=None,
        schema_of=schema_fingerprint,
        revisions_to=schema_revision(),
        split=split_ledger,
    )


async def refused(call, said):
    """Each refusal is one line; returns nothing else."""
    with pytest.raises(ChildFailed, match=said) as caught:
        await call
    assert len(str(caught.value).splitlines()) == 1


async def content(url):
    connection = await asyncpg.connect(url)
    try:
        return [
            await connection.fetch(f"SELECT * FROM {table} ORDER BY 1, 2")
            for table in ("orders", "order_events", "payment_attempts", "units", "users", "admin_trail")
        ]
    finally:
        await connection.close()


async def names(url):
    connection = await asyncpg.connect(url)
    try:
        return {row["datname"] for row in await connection.fetch("SELECT datname FROM pg_database")}
    finally:
        await connection.close()


@pytest.fixture
async def other(postgres):
    """The URL of a database that does not exist yet."""
    name = f"r_{uuid.uuid4().hex}"
    yield with_database(postgres.url, name)
    for one in (name, f"{name}_restoring", f"{name}_replaced"):
        await execute(postgres.url, f'DROP DATABASE IF EXISTS "{one}" WITH (FORCE)')


async def test_a_database_comes_back_as_it_was_and_replaces_another_only_if_it_is_named(
    services, db, postgres, postgres_url, other, tmp_path
):
    paid, _ = await paid_order(services)
    await waiting_order(services)
    file = tmp_path / "sale.flashsale"
    assert "it holds secrets" in await backup(file, postgres_url)
    assert file.stat().st_mode & 0o777 == 0o600
    await refused(backup(file, postgres_url), "exists")
    before = await content(postgres_url)
    await restore(file, other)
    assert await content(other) == before
    # Living data: refused, unless they are said twice, and refused while somebody uses them.
    await execute(other, f"UPDATE orders SET product_name = 'newer' WHERE order_id = '{paid}'")
    newer = await content(other)
    name = other.rpartition("/")[2]
    await refused(restore(file, other), f"--overwrite {name}")
    await refused(restore(file, other, overwrite="flashsale"), "the one of the URL")
    living = await asyncpg.connect(other)
    await refused(restore(file, other, overwrite=name), "sessions use")
    await living.close()
    await idle(other, postgres)
    damaged, whole = tmp_path / "damaged", file.read_bytes()
    damaged.write_bytes(whole[: len(whole) // 2] + bytes(200) + whole[len(whole) // 2 + 200 :])
    await refused(restore(damaged, other, overwrite=name), "damaged")
    assert await content(other) == newer
    await idle(other, postgres)
    await restore(file, other, overwrite=name)
    assert await content(other) == before
    assert not {f"{name}_restoring", f"{name}_replaced"} & await names(postgres.url)
    with pytest.raises(ChildFailed, match="restore it with --url"):
        await restore_stack(
            tmp_path / "data", file, overwrite=None, schema_of=schema_fingerprint, revisions_to=schema_revision(),
            split=split_ledger,
        )  # fmt: skip


async def idle(url, postgres):
    """Wait until the server knows that no session uses a database."""
    connection = await asyncpg.connect(postgres.url)
    asked = "SELECT count(*) FROM pg_stat_activity WHERE datname = $1"
    async with asyncio.timeout(60):
        while await connection.fetchval(asked, url.rpartition("/")[2]):
            await asyncio.sleep(0.01)
    await connection.close()


async def test_what_fails_is_one_line_and_leaves_nothing(postgres_url, empty_url, tmp_path):
    file = tmp_path / "file"
    await refused(backup(file, empty_url), "is not migrated")
    await refused(backup(file, "postgresql://nobody@127.0.0.1:9/none"), "refused")
    full = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-m", "flashsale.cli", "backup", str(file), "--url", postgres_url],
        env=of_this_checkout(), cwd=ROOT, capture_output=True, text=True, check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000)),
    )  # fmt: skip
    assert (full.returncode, len(full.stderr.splitlines())) == (1, 1), full.stderr
    assert "File" in full.stderr
    assert list(tmp_path.iterdir()) == [], "neither a part of a backup nor its folder"
