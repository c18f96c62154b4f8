"""A finished sale leaves the tables for files: whole in the one or in the others at each instant, and told of afterwards."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import shutil
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import pytest
from click.testing import CliRunner

from flashsale.adapters.archive_files import FolderOfArchive
from flashsale.adapters.postgres import sale_rows
from flashsale.adapters.postgres.database import Database
from flashsale.adapters.postgres.invariants import PostgresInvariants
from flashsale.adapters.postgres.sale_rows import PostgresSaleRows
from flashsale.adapters.postgres.settlement import PostgresSettledOrders
from flashsale.adapters.postgres.upkeep import PostgresUpkeep
from flashsale.bootstrap.api import open_services
from flashsale.cli import archives, main
from flashsale.domain.errors import NotOnSale, OrderArchived, OrderNotFound, StateForbids
from flashsale.domain.orders import OrderFilter, OrderStatus
from flashsale.domain.payments import Intent, IntentState
from flashsale.domain.requests import BuyRequest
from flashsale.domain.users import Principal, Role
from flashsale.usecases import archive_sale
from flashsale.usecases.archive_check import ArchiveRefused, CheckArchive
from flashsale.usecases.archive_sale import NotArchived
from flashsale.usecases.ledger_audit import check_ledger
from flashsale.usecases.settle import Settle
from flashsale.usecases.story import story_of
from flashsale.usecases.webhooks import WEBHOOKS
from tests.conftest import assert_invariants
from tests.support import manual
from tests.support.accepting import wait_for_lock
from tests.support.archiving import FATES, archiving, finish, finished, sold
from tests.support.charging import charging
from tests.support.provider import paying
from tests.support.refunding import Provider, refunding, requesting

TABLES = """
SELECT c.table_name FROM information_schema.columns AS c
INNER JOIN information_schema.tables AS t USING (table_schema, table_name)
WHERE c.table_schema = 'public' AND t.table_type = 'BASE TABLE' AND c.column_name = $1
ORDER BY c.table_name
"""

ENDLESS = {"admin_trail", "product_terms", "products", "product_live", "unit_pools", "product_restocks", "order_totals"}
"""Tables with rows of a product that stay, and those below."""

STAYS = {"archived_orders", "archived_money", "sale_archives", "stock_raises"}


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    monkeypatch.setattr(archive_sale, "ORDERS_PER_PART", 3)
    monkeypatch.setattr(archive_sale, "REST", 1)


def documents(folder):
    """Return the orders of the files by id, and the messages."""
    lines = {"orders": [], "messages": []}
    for path in sorted(folder.glob("*.jsonl.gz")):
        lines[path.name.partition("-")[0]] += [
            json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()
        ]
    return {line["order"]["order_id"]: line for line in lines["orders"]}, lines["messages"]


async def rows_of(db, order_ids):
    """Return the rows of orders by table: of every table that has an order's id."""
    found = {}
    for row in await db.fetch(TABLES, "order_id"):
        table = row["table_name"]
        if table not in STAYS | {"order_mark"}:
            rows = await db.fetch(f"SELECT to_jsonb(t) AS row FROM {table} AS t WHERE order_id = ANY($1)", order_ids)
            found[table] = [json.loads(one["row"]) for one in rows]
    return found


async def told(services, product, orders, principal):
    """Return what the shop tells of a sale: books in two zones, figures, and what its buyers see."""
    today = datetime.now(tz=UTC).date()
    days = {"since": today - timedelta(days=1), "until": today + timedelta(days=1)}
    books = [await services.read_books(**days, zone=zone) for zone in ("UTC", "Asia/Kathmandu")]
    figures = await services.read_products.one(product.product_id)
    seen = {fate: await services.orders.get(order_id, principal(fate)) for fate, order_id in orders.items()}
    listed = [await services.orders.of_buyer(principal(fate), before=None, limit=9) for fate in orders]
    return books, (figures.sold, figures.claimed, figures.revenue, figures.refunded), seen, listed


async def owners(db, orders):
    users = {row["order_id"]: row["user_id"] for row in await db.fetch("SELECT order_id, user_id FROM orders")}
    return lambda fate: Principal(user_id=users[orders[fate]], role=Role.BUYER)


async def test_a_sale_is_whole_in_the_files_gone_from_the_tables_and_told_of_as_before(services, db, tmp_path):
    await db.execute(
        "INSERT INTO outbox_targets (target_id, url, secret, events) VALUES ('wh_a', 'x', 'y', '{order.confirmed}')"
    )
    _, others = await sold(services)
    product, orders = await finished(services)
    await db.execute("UPDATE outbox SET due_at = NULL, outcome = 'delivered', ended_at = clock_timestamp()")
    ids, principal = list(orders.values()), await owners(db, orders)
    before, of_others = await rows_of(db, ids), await rows_of(db, list(others.values()))
    promised = await told(services, product, orders, principal)

    done = await archiving(services, tmp_path)(product.product_id)
    assert (done.orders, done.removed, done.before) == (len(FATES), len(FATES), False)

    in_files, messages = documents(tmp_path)
    assert sorted(in_files) == sorted(map(str, ids))
    names = {
        "orders": "order", "requests": "request", "order_events": "events", "payment_attempts": "attempts",
        "refunds": "refunds", "units": "units",
    }  # fmt: skip
    compared = 0
    for table, name in names.items():
        for row in before[table]:
            kept = in_files[row["order_id"]][name]
            kept = [kept] if isinstance(kept, dict) else kept
            same = [one for one in kept if isinstance(one, dict) and one.items() <= row.items()]
            assert (
                [row["unit_no"]] == [one for one in kept if one == row["unit_no"]]
                if table == "units"
                else len(same) == 1
            )
            compared += 1
    assert compared == sum(len(rows) for table, rows in before.items() if table in names) > 50
    assert sorted(one["message"]["message_id"] for one in messages) == sorted(
        row["message_id"] for row in before["outbox"]
    )

    assert {table: rows for table, rows in (await rows_of(db, ids)).items() if rows} == {}
    left = {}
    for row in await db.fetch(TABLES, "product_id"):
        count = f"SELECT count(*) FROM {row['table_name']} WHERE product_id = $1"
        left[row["table_name"]] = await db.fetchval(count, product.product_id)
    assert {table for table, count in left.items() if count} <= ENDLESS | STAYS
    assert left["archived_orders"] == len(FATES)
    assert await rows_of(db, list(others.values())) == of_others, "another sale"
    assert await told(services, product, orders, principal) == promised
    assert all(not one.violations for one in CheckArchive(FolderOfArchive(tmp_path))())
    assert (await archiving(services, tmp_path)(product.product_id)).before
    assert (await services.read_products.one(product.product_id)).files == done.place
    trail = await db.fetchrow("SELECT * FROM admin_trail WHERE action = 'archive'")
    assert (trail["actor"], trail["object"]) == ("cli", f"product/{product.product_id}")


CHANGING = ("write_lines", "write_product", "write_manifest", "begin", "remove", "forget_rest", "end")
"""What changes a file or a row."""


class Killed(Exception):
    """A run ended here."""


class Killing:
    """Passes calls on to files or rows; the first one of a name raises, before or after it was carried out."""

    def __init__(self, inner, name, *, after):
        self.inner, self.name, self.after = inner, name, after

    def __getattr__(self, name):
        found = getattr(self.inner, name)
        if name != self.name:
            return found
        if asyncio.iscoroutinefunction(found):

            async def dying(*arguments):
                if self.after:
                    await found(*arguments)
                raise Killed(name)

            return dying

        def dying_at_once(*arguments):
            if self.after:
                found(*arguments)
            raise Killed(name)

        return dying_at_once


SOLD_OUT = """
INSERT INTO outbox (target_id, event, product_id, facts, outcome, created_at, ended_at, due_at)
SELECT
    'wh_a', 'stock.sold_out', p.product_id, jsonb_build_object('product_id', p.product_id), 'delivered', now(), now(), NULL
FROM products AS p WHERE p.product_id = $1
"""


async def test_a_run_that_ends_anywhere_is_finished_by_the_next(services, db, tmp_path):
    """Each call that changes something is the last one of a run, once before and twice after it was carried out."""
    product, orders = await finished(services)
    await db.execute(SOLD_OUT, product.product_id)
    archived = "SELECT order_id FROM archived_orders"
    seen = []
    for name, after in ((name, after) for name in CHANGING for after in (False, True, True)):
        files = Killing(FolderOfArchive(tmp_path), name, after=after)
        rows = Killing(PostgresSaleRows(services.database), name, after=after)
        try:
            done = await archiving(services, tmp_path, rows=rows, files=files)(product.product_id)
        except Killed:
            if name in {"begin", "remove", "end"}:
                await assert_invariants(services.database)
        else:
            assert (name, done.before) == ("end", True), "its last call was carried out before"
        left = await db.fetch("SELECT order_id FROM orders")
        gone = await db.fetch(archived)
        assert sorted(row["order_id"] for row in [*left, *gone]) == sorted(orders.values())
        in_files, _ = documents(tmp_path)
        assert {str(row["order_id"]) for row in gone} <= in_files.keys()
        seen.append(len(gone))
    assert sorted(set(seen)) == [0, 3, 6, 7], "a part at a time"
    assert await db.fetchval("SELECT count(*) FROM outbox") == 0
    told_of = json.loads((tmp_path / "product.json").read_text())
    assert [message["event"] for message in told_of["messages"]] == ["stock.sold_out"]
    assert told_of["trail"]
    assert not any({"actor", "origin"} & row.keys() for row in told_of["trail"]), "names of persons"
    assert all(not one.violations for one in CheckArchive(FolderOfArchive(tmp_path))())


OPEN = {
    "orders that are not final": "UPDATE orders SET status = 'queued', due_at = now() WHERE order_id = $1",
    "disputed": "UPDATE orders SET disputed = true WHERE order_id = $1",
    "pending refunds": "UPDATE refunds SET state = 'pending', due_at = now(), finished_at = NULL WHERE order_id = $1",
    "not settled": (
        "INSERT INTO payment_intents (order_id, number, provider, reference, state, amount_minor, currency, window_left, due_at)"
        " VALUES ($1, 1, 'test', 'pi_1', 'open', 99999, 'USD', interval '0', now())"
    ),
    "webhooks": (
        "WITH w AS (INSERT INTO webhook_events (provider, event_id, type, reference, due_at)"
        " VALUES ('test', 'evt_1', 'x', 'pi_1', now()))"
        " INSERT INTO payment_intents (order_id, number, provider, reference, state, amount_minor, currency, window_left)"
        " VALUES ($1, 1, 'test', 'pi_1', 'captured', 99999, 'USD', interval '0')"
    ),
    "messages": (
        "INSERT INTO outbox (target_id, event, order_id, order_version, product_id, facts)"
        " SELECT 'mail', 'order.confirmed', order_id, 5, product_id, '{}' FROM orders WHERE order_id = $1"
    ),
    "totals": "INSERT INTO order_stragglers (order_id) VALUES ($1)",
}
"""What may be open, and a statement that makes it so of the order that was refunded in part."""


async def test_a_sale_of_which_anything_is_open_is_refused_by_its_name_and_nothing_is_written(settings, db, tmp_path):
    async with open_services(settings, name="test") as services:
        product, orders = await finished(services)
        archive = archiving(services, tmp_path / "new")
        for what, statement in OPEN.items():
            open_it = db.transaction()
            await open_it.start()
            await db.execute("SET LOCAL session_replication_role = replica")
            await db.execute(statement, orders["part refunded"])
            await open_it.commit()
            with pytest.raises(NotArchived, match=what):
                await archive(product.product_id)
            assert not (tmp_path / "new").exists()
            assert await db.fetchval("SELECT count(*) FROM orders WHERE product_id = $1", product.product_id) == len(
                FATES
            )
            undo = db.transaction()
            await undo.start()
            await db.execute("SET LOCAL session_replication_role = replica")
            for table in ("payment_intents", "webhook_events", "outbox", "order_stragglers"):
                await db.execute(f"DELETE FROM {table}")
            await db.execute(
                "UPDATE orders SET status = 'confirmed', due_at = NULL, disputed = false WHERE order_id = $1",
                orders["part refunded"],
            )
            await db.execute(
                "UPDATE refunds SET state = 'succeeded', due_at = NULL, finished_at = created_at + interval '1 ms' WHERE order_id = $1",
                orders["part refunded"],
            )
            await undo.commit()
        with pytest.raises(NotArchived, match="quiet for 3 days"):
            await archiving(services, tmp_path / "new", quiet=timedelta(days=3))(product.product_id)
        living, _ = await sold(services)
        with pytest.raises(NotArchived, match="on the lists"):
            await archive(living.product_id)
        assert (await archive(product.product_id)).removed == len(FATES), "a control"


async def refund_the_rest(services, order_id):
    """Give the rest back, and let the totals count it, so that nothing is open afterwards."""
    await requesting(services)(order_id)
    await refunding(services, Provider())(order_id)
    await PostgresUpkeep(services.database).carry(settled_s=0, limit=1000)


class Late(PostgresSaleRows):
    """Something happens to a sale after its files were judged, before its rows leave."""

    def __init__(self, database, happens):
        super().__init__(database)
        self.happens = happens

    async def begin(self, *arguments):
        await super().begin(*arguments)
        await self.happens()


async def test_an_order_that_changes_after_its_file_was_written_stays_and_the_next_run_has_the_change(
    services, db, tmp_path
):
    product, orders = await finished(services)
    order_id = orders["part refunded"]
    late = Late(services.database, lambda: refund_the_rest(services, order_id))
    with pytest.raises(NotArchived, match="changed"):
        await archiving(services, tmp_path, rows=late)(product.product_id)
    assert (
        await services.orders.get(order_id, (await owners(db, orders))("part refunded"))
    ).status == OrderStatus.REFUNDED
    await assert_invariants(services.database)
    await archiving(services, tmp_path)(product.product_id)
    in_files, _ = documents(tmp_path)
    assert [one["amount_minor"] for one in in_files[str(order_id)]["refunds"]] == [150, 99_999 - 150]


async def test_control_without_the_comparison_the_change_would_be_in_no_file(settings, db, tmp_path, monkeypatch):
    async with open_services(settings, name="test") as services:
        product, orders = await finished(services)
        order_id = orders["part refunded"]

        async def equal(connection, product_id, number, order_ids, digest, messages):
            answers = iter((digest, messages))
            with monkeypatch.context() as patched:
                patched.setattr(sale_rows, "digest_of", lambda _: next(answers))
                return await remove(connection, product_id, number, order_ids, digest, messages)

        remove = sale_rows._remove
        monkeypatch.setattr(sale_rows, "_remove", equal)
        late = Late(services.database, lambda: refund_the_rest(services, order_id))
        await archiving(services, tmp_path, rows=late)(product.product_id)
        in_files, _ = documents(tmp_path)
        assert len(in_files[str(order_id)]["refunds"]) == 1
        assert await db.fetchval("SELECT count(*) FROM refunds") == 0


async def test_a_refund_that_begins_while_its_order_is_deleted_is_made_or_its_order_stays(services, db, tmp_path):
    """The refund's transaction is open when the order's part is to be deleted."""
    product, orders = await finished(services)
    order_id, begun = orders["confirmed"], asyncio.Event()
    rival = db.transaction()

    async def happens():
        await rival.start()
        asked = "SELECT result FROM request_refund_v1($1, NULL, false, 'x', $2, interval '1 h')"
        assert await db.fetchval(asked, order_id, order_id) == "requested"
        begun.set()

    patient = services.settings.postgres.model_copy(update={"lock_timeout_s": 60, "statement_timeout_s": 60})
    database = Database(patient, name="test-archive")
    await database.open()
    late = Late(database, happens)
    archive = asyncio.create_task(archiving(services, tmp_path, rows=late)(product.product_id))
    await asyncio.wait_for(begun.wait(), 60)
    await wait_for_lock(db)
    await rival.commit()
    with pytest.raises(NotArchived, match="changed"):
        await archive
    await database.close()
    assert await db.fetchval("SELECT status FROM orders WHERE order_id = $1", order_id) == OrderStatus.REFUND_PENDING
    await assert_invariants(services.database)
    await refunding(services, Provider())(order_id)
    await PostgresUpkeep(services.database).carry(settled_s=0, limit=1000)
    await archiving(services, tmp_path)(product.product_id)
    in_files, _ = documents(tmp_path)
    assert in_files[str(order_id)]["order"]["status"] == OrderStatus.REFUNDED


async def test_what_is_asked_of_an_archived_order_is_answered(services, db, tmp_path):
    product, orders = await finished(services, refundable_by_buyer=True)
    principal = await owners(db, orders)
    owner, order_id = principal("confirmed"), orders["confirmed"]
    await db.execute(
        "UPDATE users SET name = 'Mary Somerville', email = 'mary@example.com' WHERE user_id = $1", owner.user_id
    )
    done = await archiving(services, tmp_path)(product.product_id)
    with pytest.raises(OrderArchived) as refused:
        await story_of(services.stories, order_id)
    assert done.place in refused.value.detail
    with pytest.raises(OrderArchived):
        await services.refunds.of_order(order_id)
    with pytest.raises(OrderNotFound):
        await services.refunds.of_order(uuid4())
    with pytest.raises(OrderNotFound):
        await services.orders.get(order_id, principal("declined"))
    for forbidden in (
        requesting(services)(order_id),
        requesting(services)(order_id, "1.00"),
        services.orders.cancel(order_id, owner),
        services.orders.pay(order_id, owner),
        services.refunds.by_buyer(order_id, owner.user_id),
    ):
        with pytest.raises(StateForbids):
            await forbidden
    with pytest.raises(OrderNotFound):
        await services.refunds.by_buyer(order_id, principal("declined").user_id)
    for elsewhere in (
        services.refunds.withdraw(orders["part refunded"], 1),
        manual.record(services, order_id),
        manual.recording(services).refund(order_id, 1, reference="t-2", recorded_by=owner.user_id),
    ):
        with pytest.raises(OrderArchived):
            await elsewhere
    again = BuyRequest(user_id=owner.user_id, product_id=product.product_id, quantity=2, key="k-confirmed")
    with pytest.raises(NotOnSale):
        await services.buy(again)
    assert await db.fetchval("SELECT count(*) FROM orders WHERE product_id = $1", product.product_id) == 0

    pays = paying(services)
    pays.provider.held["pi_1"] = Intent(
        reference="pi_1", order_id=order_id, state=IntentState.CAPTURED, amount=product.price, refunded_minor=500,
        disputed=True, client_secret=None, page_url=None, decline_code=None, created_at=datetime.now(UTC),
    )  # fmt: skip
    counted = WEBHOOKS.labels("archived")._value.get()
    assert await pays.webhook("evt_1", "pi_1", kind="charge.refunded")
    await pays.take("stripe", "evt_1")
    assert WEBHOOKS.labels("archived")._value.get() == counted + 1
    assert await db.fetchval("SELECT taken_at IS NOT NULL FROM webhook_events")
    assert await db.fetchval("SELECT count(*) FROM payment_intents") == 0

    await services.buyers.erase(owner.user_id, None)
    assert await services.buyers.archived_orders(owner.user_id) == 1
    text = "".join(map(json.dumps, documents(tmp_path)[0].values())) + (tmp_path / "product.json").read_text()
    assert "mary" not in text.lower()


def damage(folder):
    """Return ways to spoil an archive."""
    part = folder / "orders-00002.jsonl.gz"
    content, manifest = part.read_bytes(), (folder / "manifest.json").read_bytes()
    other = gzip.compress(gzip.decompress(content).replace(b'"quantity": 1', b'"quantity": 2'), 3, mtime=0)
    yield "lost", part.unlink
    yield "cut", lambda: part.write_bytes(content[:-9])
    yield "empty", lambda: part.write_bytes(b"")
    yield "one bit", lambda: part.write_bytes(content[:99] + bytes([content[99] ^ 1]) + content[100:])
    yield "other content", lambda: part.write_bytes(other)
    yield "no manifest", (folder / "manifest.json").unlink
    yield "half a manifest", lambda: (folder / "manifest.json").write_bytes(manifest[: len(manifest) // 2])
    yield "another manifest", lambda: (folder / "manifest.json").write_bytes(b'{"program": "tar"}')
    yield (
        "a newer manifest",
        lambda: (folder / "manifest.json").write_bytes(manifest.replace(b'"format": 1', b'"format": 2')),
    )
    yield "a list", lambda: (folder / "manifest.json").write_bytes(b"[]")


async def test_the_command_archives_and_its_check_finds_each_damage(settings, services, tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "process_settings", lambda _: settings)
    product, _ = await finished(services)

    async def run(*arguments):
        """Run the command as it runs by itself: in a thread, because it has a loop of its own."""
        return await asyncio.to_thread(CliRunner().invoke, main, ["archive", *map(str, arguments)])

    to = (product.product_id, "--to", tmp_path)
    refused = await run(*to)
    assert refused.exit_code == 1
    assert len(refused.output.splitlines()) == 1
    assert "quiet for 180 days" in refused.output
    left = await run("--due", "--to", tmp_path, "--json")
    assert (left.exit_code, len(json.loads(left.stdout)["left"])) == (0, 1)
    for wrong in (("--to", tmp_path), (*to, "--due"), (product.product_id,), ("x", "--to", tmp_path)):
        assert (await run(*wrong)).exit_code == 2, wrong
    done = await run(*to, "--quiet-days", 0, "--place", "desk:/sales", "--json")
    assert done.exit_code == 0, done.output
    (one,) = json.loads(done.stdout)["archived"]
    assert (one["orders"], one["removed"]) == (len(FATES), len(FATES))
    assert one["place"] == f"desk:/sales/product-{product.product_id}"
    again = await run(*to)
    assert (again.exit_code, "archived before" in again.output) == (0, True)

    assert (await run("check", tmp_path)).exit_code == 0
    assert json.loads((await run("check", tmp_path, "--json")).stdout)["holds"]
    folder = tmp_path / f"product-{product.product_id}"
    whole = {path: path.read_bytes() for path in folder.iterdir()}
    for name, spoil in damage(folder):
        spoil()
        found = await run("check", tmp_path)
        assert found.exit_code == 1, name
        assert found.exception is None or isinstance(found.exception, SystemExit), name
        for path, content in whole.items():
            path.write_bytes(content)
    assert (await run("check", folder)).exit_code == 0


@pytest.mark.parametrize("broken", ["manifest", "rows", "folder"])
async def test_of_all_that_are_due_one_sale_that_fails_stops_no_other(
    broken, settings, db, tmp_path, monkeypatch, redis
):
    monkeypatch.setattr(archives, "process_settings", lambda _: settings)
    async with open_services(settings, name="test") as services:
        first, orders = await finished(services)
        second, _ = await finished(services)
    folder = tmp_path / f"product-{first.product_id}"
    if broken == "manifest":
        folder.mkdir()
        (folder / "manifest.json").write_text("{}")
    elif broken == "folder":
        folder.write_text("a file")
    else:
        await db.execute("UPDATE payment_attempts SET amount_minor = 1 WHERE order_id = $1", orders["confirmed"])
    command = ["archive", "--due", "--to", str(tmp_path), "--quiet-days", "0", "--json"]
    done = await asyncio.to_thread(CliRunner().invoke, main, command)
    told = json.loads(done.stdout)
    assert ([one["product_id"] for one in told["archived"]], told["left"]) == ([second.product_id], [])
    (line,) = told["failed"]
    assert f"product {first.product_id}" in line.lower() or f"product-{first.product_id}" in line
    assert "\n" not in line
    assert done.exit_code == 1, "a person has to look"


async def test_a_disputed_order_leaves_once_a_person_says_that_disputes_are_over(services, db, tmp_path):
    """A provider says for ever that a charge was disputed."""
    product, orders = await finished(services)
    await db.execute("UPDATE orders SET disputed = true WHERE order_id = $1", orders["confirmed"])
    with pytest.raises(NotArchived, match="1 orders whose charge is disputed"):
        await archiving(services, tmp_path)(product.product_id)
    over = PostgresSaleRows(services.database, disputes_over=True)
    assert (await archiving(services, tmp_path, rows=over)(product.product_id)).removed == len(FATES)
    in_files, _ = documents(tmp_path)
    assert in_files[str(orders["confirmed"])]["order"]["disputed"] is True


async def test_the_book_of_recorded_payments_agrees_with_a_sale_in_files(services, db, tmp_path):
    order_id, back = [(await manual.unpaid(services))[0] for _ in range(2)]
    for number, one in enumerate((order_id, back)):
        await manual.record(services, one, f"paid {number}")
        await charging(services, manual.gateway(services))(one)
    await requesting(services)(back, "1.50")
    await manual.recording(services).refund(back, 1, reference="t-2", recorded_by=manual.OPERATOR)
    await refunding(services, manual.gateway(services))(back)
    book = [entry async for entry in manual.gateway(services).ledger()]
    for row in await db.fetch("SELECT product_id FROM products"):
        product = await services.catalog.get(row["product_id"])
        await finish(services, product)
        await archiving(services, tmp_path / str(product.product_id))(product.product_id)
    kept = [entry async for entry in manual.gateway(services).ledger()]
    assert kept == [replace(entry, reference=None) for entry in book]
    assert {entry.key for entry in kept} == {str(order_id), str(back)}
    settle = Settle(PostgresSettledOrders(services.database), manual.gateway(services))
    now = await db.fetchval("SELECT clock_timestamp()")
    assert [one async for one in settle(since=now - timedelta(days=1), now=now)] == []
    checked = await check_ledger(
        PostgresInvariants(services.database, timeout_s=30),
        await PostgresInvariants(services.database, timeout_s=30).orders(),
        manual.gateway(services),
    )
    assert (checked.checked, checked.violations) == (2, 0)


async def test_the_orders_of_a_buyer_are_found_by_address_wherever_they_are(services, db, tmp_path):
    product, orders = await finished(services)
    address = "SELECT email FROM users INNER JOIN orders USING (user_id) WHERE order_id = $1"
    wanted = OrderFilter(email=await db.fetchval(address, orders["confirmed"]))
    others = (
        replace(wanted, product_id=product.product_id + 1),
        replace(wanted, status=OrderStatus.EXPIRED),
        replace(wanted, created_from=datetime.now(UTC) + timedelta(days=1)),
    )
    before = await services.find_orders(wanted, before=None, limit=9)
    assert [one.order.order_id for one in before] == [orders["confirmed"]]
    await archiving(services, tmp_path)(product.product_id)
    after = await services.find_orders(wanted, before=None, limit=9)
    assert [replace(one, order=replace(one.order, payment_requested=False)) for one in before] == list(after)
    assert await services.find_orders(wanted, before=orders["confirmed"], limit=9) == []
    for none in others:
        assert await services.find_orders(none, before=None, limit=9) == [], none


async def test_another_folder_cannot_finish_an_archive_that_began_elsewhere(services, db, tmp_path):
    product, _ = await finished(services)

    async def dies():
        await db.execute(
            "UPDATE orders SET disputed = true WHERE order_id = (SELECT max(order_id::text)::uuid FROM orders)"
        )

    with pytest.raises(NotArchived, match="changed"):
        await archiving(services, tmp_path / "one", rows=Late(services.database, dies))(product.product_id)
    await db.execute("UPDATE orders SET disputed = false")
    assert await db.fetchval("SELECT cardinality(digests) FROM sale_archives") == 2
    with pytest.raises(NotArchived, match="give that folder"):
        await archiving(services, tmp_path / "two")(product.product_id)
    (tmp_path / "one").rename(tmp_path / "moved")
    done = await archiving(services, tmp_path / "moved")(product.product_id)
    assert done.removed == 1
    assert await db.fetchval("SELECT place FROM sale_archives") == done.place


async def test_a_folder_with_orders_that_the_database_does_not_know_is_left_as_it_is(settings, db, tmp_path):
    """Two shops have a product of the same id; a backup that lacks orders is a third shop."""
    async with open_services(settings, name="test") as services:
        product, _ = await finished(services)
        await archiving(services, tmp_path)(product.product_id, keep=True)
        whole = {path: path.read_bytes() for path in tmp_path.iterdir()}
        manifest = FolderOfArchive(tmp_path).manifest()
        assert manifest is not None
        first, other = manifest.parts[0], manifest.parts[-1]
        foreign = {
            "another first order": replace(manifest, parts=(replace(first, first=uuid4()), *manifest.parts[1:])),
            "another last order": replace(manifest, parts=(*manifest.parts[:-1], replace(other, last=uuid4()))),
            "an order more": replace(manifest, parts=(*manifest.parts, other)),
            "another name": replace(manifest, product_name="Tent", parts=()),
            "another product": replace(manifest, product_id=product.product_id + 1),
        }
        for what, one in foreign.items():
            FolderOfArchive(tmp_path).write_manifest(one)
            spoilt = (tmp_path / "manifest.json").read_bytes()
            for keep in (True, False):
                with pytest.raises(NotArchived, match="Give another folder") as refused:
                    await archiving(services, tmp_path)(product.product_id, keep=keep)
                assert "\n" not in str(refused.value), what
            whole[tmp_path / "manifest.json"] = spoilt
            assert {path: path.read_bytes() for path in tmp_path.iterdir()} == whole, what
            assert await db.fetchval("SELECT count(*) FROM orders") == len(FATES)
        FolderOfArchive(tmp_path).write_manifest(manifest)
        assert (await archiving(services, tmp_path)(product.product_id)).removed == len(FATES), "a control"


@pytest.mark.parametrize("kind", ["message", "webhook"])
async def test_what_others_were_told_after_its_file_was_written_stays_and_the_next_run_has_it(
    kind, services, db, tmp_path
):
    product, orders = await finished(services)
    statement = {
        "message": (
            "INSERT INTO outbox (target_id, event, order_id, order_version, product_id, facts, outcome, ended_at, due_at)"
            " SELECT 'wh_a', 'order.confirmed', order_id, 5, product_id, '{}', 'delivered', clock_timestamp(), NULL"
            " FROM orders WHERE order_id = $1"
        ),
        "webhook": (
            "INSERT INTO webhook_events (provider, event_id, type, reference, order_id, taken_at)"
            " VALUES ('test', 'evt_1', 'x', 'pi_1', $1, clock_timestamp())"
        ),
    }[kind]
    late = Late(services.database, lambda: db.execute(statement, orders["confirmed"]))
    with pytest.raises(NotArchived, match="changed"):
        await archiving(services, tmp_path, rows=late)(product.product_id)
    await archiving(services, tmp_path)(product.product_id)
    _, messages = documents(tmp_path)
    assert [one[kind]["order_id"] for one in messages] == [str(orders["confirmed"])]
    assert (
        await db.fetchval("SELECT count(*) FROM outbox") + await db.fetchval("SELECT count(*) FROM webhook_events") == 0
    )


def test_the_name_of_each_new_folder_is_on_the_disk(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", lambda opened: synced.append(str(Path(f"/proc/self/fd/{opened}").readlink())))
    files = FolderOfArchive(tmp_path / "sales" / "product-7")
    with files.locked():
        assert {str(tmp_path), str(tmp_path / "sales")} <= set(synced)
        files.write_product("{}")
    assert str(files.folder) in synced


async def test_files_alone_are_written_and_nothing_is_deleted_if_that_is_asked(services, db, tmp_path):
    product, orders = await finished(services)
    before = await rows_of(db, list(orders.values()))
    done = await archiving(services, tmp_path)(product.product_id, keep=True)
    assert (done.orders, done.removed) == (len(FATES), 0)
    assert await rows_of(db, list(orders.values())) == before
    assert await db.fetchval("SELECT count(*) FROM sale_archives") == 0
    written = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("*.gz")}
    await archiving(services, tmp_path)(product.product_id)
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("*.gz")} == written, "files are kept"


async def test_an_order_of_which_a_message_waits_again_stays(services, db, tmp_path):
    product, orders = await finished(services)

    async def resent():
        await db.execute(
            "INSERT INTO outbox (target_id, event, order_id, order_version, product_id, facts)"
            " SELECT 'wh_a', 'order.confirmed', order_id, 5, product_id, '{}' FROM orders WHERE order_id = $1",
            orders["confirmed"],
        )

    with pytest.raises(NotArchived, match="changed"):
        await archiving(services, tmp_path, rows=Late(services.database, resent))(product.product_id)
    assert await db.fetchval("SELECT count(*) FROM outbox") == 1
    assert await db.fetchval("SELECT count(*) FROM orders WHERE order_id = $1", orders["confirmed"]) == 1
    await db.execute("DELETE FROM outbox")
    assert (await archiving(services, tmp_path)(product.product_id)).orders == len(FATES)


async def test_a_sale_whose_rows_contradict_each_other_is_not_deleted(settings, db, tmp_path):
    async with open_services(settings, name="test") as services:
        product, orders = await finished(services)
        await db.execute("UPDATE payment_attempts SET amount_minor = 1 WHERE order_id = $1", orders["confirmed"])
        with pytest.raises(NotArchived, match="A5"):
            await archiving(services, tmp_path)(product.product_id)
        assert await db.fetchval("SELECT count(*) FROM orders") == len(FATES)
        await db.execute(
            "UPDATE payment_attempts SET amount_minor = 2 * 99999 WHERE order_id = $1", orders["confirmed"]
        )
        assert (await archiving(services, tmp_path)(product.product_id)).removed == len(FATES), "a control"


async def test_of_two_runs_one_deletes_each_part(services, db, tmp_path):
    """Both have the same files, in folders of their own, and delete at the same time."""
    product, _ = await finished(services)
    await archiving(services, tmp_path / "one")(product.product_id, keep=True)
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    runs = [archiving(services, tmp_path / name)(product.product_id) for name in ("one", "two")]
    ended = await asyncio.gather(*runs, return_exceptions=True)
    assert [one for one in ended if isinstance(one, BaseException) and not isinstance(one, NotArchived)] == []
    await archiving(services, tmp_path / "one")(product.product_id)
    assert await db.fetchval("SELECT count(*) FROM archived_orders") == len(FATES)
    assert await db.fetchval("SELECT sum(payments) FROM archived_money") == len(FATES) - 2
    product, _ = await finished(services)
    files = FolderOfArchive(tmp_path / "three")
    with files.locked(), pytest.raises(ArchiveRefused, match="Another run"):
        await archiving(services, tmp_path / "three")(product.product_id)
