"""Each invariant must be seen to be violated when the data is: constraints and triggers are taken away first."""

import pytest

from flashsale.adapters.postgres.invariants import PostgresInvariants
from flashsale.bootstrap import open_audit, open_services
from flashsale.usecases.audit import format_findings
from flashsale.usecases.ports import ChargeOutcome, LedgerEntry
from tests.conftest import add_buyers, add_product, make_settings
from tests.integration.test_accept import accept_one
from tests.integration.test_payments import Gateway, charging


@pytest.fixture
async def sold(settings):
    """A product with one confirmed, one declined and one queued order; nothing checks it afterwards."""
    async with open_services(settings) as services:
        product = await add_product(services, limit_per_buyer=2)
        users = await add_buyers(services, 3)
        orders = [await accept_one(services, product, user, key="k") for user in users]
        await services.order_rows.process(orders[:2], payment_due_s=30)
        await charging(services, Gateway(ChargeOutcome.CAPTURED))(orders[0])
        await charging(services, Gateway(ChargeOutcome.DECLINED))(orders[1])
        yield services


async def violated(services, *, overdue_s=3600):
    results = await PostgresInvariants(services.database).check(overdue_s=overdue_s)
    return {result.invariant for result in results if result.violations}


async def test_a_sale_that_is_right_violates_nothing(sold):
    assert await violated(sold) == set()


CORRUPTIONS = [
    ("I1", "UPDATE product_live SET free = free + 1"),
    ("I1", "INSERT INTO units (product_id, unit_no) VALUES (1, 999); UPDATE product_live SET free = free + 1"),
    ("I2", "UPDATE units SET order_id = NULL WHERE order_id IS NOT NULL; UPDATE product_live SET free = 10"),
    (
        "I2",
        """
        UPDATE units SET order_id = (SELECT order_id FROM orders WHERE status = 'payment_failed') WHERE unit_no = 9;
        UPDATE product_live SET free = free - 1
        """,
    ),
    ("I5", "DELETE FROM order_events WHERE version = 2"),
    ("I5", "UPDATE order_events SET status = 'failed' WHERE version = 3"),
    ("I5", "UPDATE orders SET version = version + 1"),
    ("I5", "INSERT INTO order_events (order_id, version, status) SELECT gen_random_uuid(), 1, 'queued'"),
    ("I7", "UPDATE payment_attempts SET amount_minor = 1"),
    ("I7", "DELETE FROM payment_attempts WHERE outcome = 'captured'"),
    ("I7", "UPDATE payment_attempts SET outcome = 'captured' WHERE outcome = 'declined'"),
    ("I8", "UPDATE buyer_units SET units = units + 1 WHERE units = 0"),
    ("I8", "DELETE FROM buyer_units WHERE units = 1"),
    ("I9", "UPDATE requests SET kind = 'void' WHERE order_id IN (SELECT order_id FROM orders LIMIT 1)"),
    ("I9", "DELETE FROM requests WHERE order_id IN (SELECT order_id FROM orders LIMIT 1)"),
    (
        "I9",
        "INSERT INTO requests (order_id, kind, user_id) SELECT gen_random_uuid(), 'order', user_id FROM users LIMIT 1",
    ),
    ("I10", "UPDATE products SET limit_per_buyer = 1; UPDATE buyer_units SET units = 2 WHERE units = 1"),
    ("I11", "UPDATE products SET starts_at = now() + interval '1 hour'"),
    ("I11", "UPDATE products SET ends_at = now() - interval '1 hour'"),
    ("I12", "UPDATE orders SET due_at = now() - interval '2 hours' WHERE due_at IS NOT NULL"),
    ("I12", "UPDATE orders SET due_at = NULL"),
    (
        "I16",
        "UPDATE orders SET order_id = '00000000-0000-4000-8000-000000000000' WHERE status = 'queued'",
    ),
]


@pytest.mark.parametrize(("invariant", "statement"), CORRUPTIONS)
async def test_corrupted_data_is_found(sold, db, invariant, statement):
    await db.execute(
        """
        DO $$ DECLARE one record; BEGIN
            FOR one IN SELECT conrelid::regclass AS t, conname FROM pg_constraint
                WHERE contype IN ('c', 'f') AND connamespace = 'public'::regnamespace AND conrelid <> 0
            LOOP EXECUTE format('ALTER TABLE %s DROP CONSTRAINT IF EXISTS %I CASCADE', one.t, one.conname); END LOOP;
        END $$;
        DROP TRIGGER orders_transition ON orders;
        """
    )
    assert await violated(sold) == set()
    await db.execute(statement)
    assert invariant in await violated(sold)


async def test_a_gate_that_drifts_is_found(sold, settings, redis, monkeypatch):
    monkeypatch.setattr("flashsale.usecases.audit.GATE_PAUSE_S", 0.5)
    monkeypatch.setattr("flashsale.usecases.audit.GATE_LAG_S", 0.5 - settings.gate.lease_s)
    # Accepted behind the gate's back: it still counts the units of the two orders that hold some.
    async with open_audit(make_settings_without_gateway(settings)) as audit:
        results = {result.promise[:4]: result for result in await audit(history=None, overdue_s=3600)}
        assert results["Gate"].violations == 1
        assert "I3   VIOLATED" in format_findings(list(results.values()))
    await sold.load_gate(1, force=True)
    async with open_audit(make_settings_without_gateway(settings)) as audit:
        results = await audit(history=None, overdue_s=3600)
    assert not any(result.violations for result in results)
    assert {result.invariant for result in results if result.skipped} == {"I4", "I6", "I7", "I9", "I14", "I20"}


class Books:
    """The gateway's ledger, which has captured each order's price; `meanwhile` happens before it is read."""

    def __init__(self, order_ids, meanwhile=None):
        self.order_ids = order_ids
        self.meanwhile = meanwhile

    async def ledger(self):
        if self.meanwhile is not None:
            await self.meanwhile()
        for order_id in self.order_ids:
            yield LedgerEntry(key=str(order_id), status="captured", amount_minor=99_999, refunded_minor=0, captures=1)


async def books_violated(settings, books):
    async with open_audit(make_settings_without_gateway(settings)) as audit:
        audit._gateway = books
        return {result.invariant for result in await audit(history=None, overdue_s=3600) if result.violations} & {"I7"}


async def test_an_order_that_is_paid_while_the_books_are_read_is_no_violation(sold, settings, redis, db, monkeypatch):
    # The gate, which these orders went behind the back of, need not be waited for.
    monkeypatch.setattr("flashsale.usecases.audit.GATE_LAG_S", -settings.gate.lease_s)
    by_status = "SELECT order_id FROM orders WHERE status = $1"
    both = [await db.fetchval(by_status, status) for status in ("confirmed", "queued")]
    assert await books_violated(settings, Books(both[:1])) == set()
    assert await books_violated(settings, Books(both)) == {"I7"}, "money was taken for an order that nobody pays yet"

    async def pay():
        await sold.order_rows.process(both[1:], payment_due_s=30)
        await charging(sold, Gateway(ChargeOutcome.CAPTURED))(both[1])

    assert await books_violated(settings, Books(both, pay)) == set()
    assert await books_violated(settings, Books(both[:1])) == {"I7"}, "a confirmed order that nobody paid"


def make_settings_without_gateway(settings):
    return make_settings(
        settings.postgres.url.get_secret_value(), settings.redis.url.get_secret_value(), payments={"gateway_url": ""}
    )
