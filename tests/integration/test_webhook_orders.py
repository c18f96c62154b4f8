"""Whatever webhooks do on their way, and however old what a job read has become, an order ends in one state (I15)."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import replace
from datetime import UTC, datetime
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flashsale.bootstrap.api import open_services
from flashsale.domain.money import Money
from flashsale.domain.payments import Intent, IntentState
from flashsale.domain.products import PaymentMode
from tests.conftest import assert_invariants
from tests.support.charging import charging, waiting_order
from tests.support.provider import paying

EXAMPLES = 60

LIVES = {
    "paid": (IntentState.OPEN, IntentState.AUTHORIZED, IntentState.CAPTURED),
    "never paid": (IntentState.OPEN, IntentState.CANCELLED),
    "held too late": (IntentState.OPEN, IntentState.AUTHORIZED, IntentState.CANCELLED),
    "taken too late": (IntentState.OPEN, IntentState.AUTHORIZED, IntentState.CAPTURED),
}
"""What a provider says of an intent, one after the other. The last word is always heard: a look makes up for webhooks."""

ENDS = {
    "paid": ("confirmed", "captured", 0),
    "never paid": ("expired", "cancelled", 0),
    "held too late": ("expired", "cancelled", 0),
    "taken too late": ("expired", "refunded", 1),
}
"""The order's state, the intent's, and the refunds made."""

tried: set[tuple[str, tuple[int, ...]]] = set()


@st.composite
def hearings(draw):
    """A life, and the order in which jobs hear of its steps: any permutation with repetitions and losses."""
    name = draw(st.sampled_from(sorted(LIVES)))
    steps = st.lists(st.integers(0, len(LIVES[name]) - 1), max_size=6)
    return name, tuple(draw(steps))


async def hear(services, db, name, heard):
    """Let an order hear these steps, then the last one; returns its end."""
    order_id, _ = await waiting_order(services, payment_mode=PaymentMode.BY_BUYER)
    pays = paying(services)
    opened = await pays.open(order_id)
    said = Intent(
        reference=opened.reference, order_id=order_id, state=IntentState.OPEN, amount=Money(minor=99_999, currency="USD"),
        refunded_minor=0, disputed=False, client_secret=None, page_url=None, decline_code=None,
        created_at=datetime.now(UTC),
    )  # fmt: skip
    if name != "paid":
        await db.execute("UPDATE orders SET due_at = clock_timestamp() WHERE order_id = $1", order_id)
        await services.order_rows.sweep([order_id], due_s=30, patience_s=1)
    for step in heard:
        await pays.settle.merge(order_id, replace(said, state=LIVES[name][step]), due_s=30)
    last = LIVES[name][-1]
    pays.provider.change(opened.reference, state=last)
    for event in range(2):
        await pays.tell(f"evt_{event}_{order_id}", opened.reference)
    await charging(services, pays.provider)(order_id)
    await db.execute("UPDATE payment_intents SET due_at = clock_timestamp() WHERE due_at IS NOT NULL")
    await pays.settle_all(db)
    return await end_of(db, order_id, pays)


async def end_of(db, order_id: UUID, pays):
    row = await db.fetchrow(
        """
        SELECT o.status, i.state, i.due_at IS NULL AS settled,
            (SELECT count(*) FROM payment_attempts AS a WHERE a.order_id = o.order_id AND a.outcome = 'captured') AS paid
        FROM orders AS o INNER JOIN payment_intents AS i ON o.order_id = i.order_id WHERE o.order_id = $1
        """,
        order_id,
    )
    assert row["settled"]
    assert row["paid"] == (row["status"] == "confirmed"), "paid once at most"
    return row["status"], row["state"], pays.provider.asked.count("refund")


@pytest.mark.usefixtures("redis")
def test_any_permutation_repetition_and_loss_of_webhooks_ends_in_the_same_state(postgres_url, valkey):
    import asyncpg

    from tests.conftest import make_settings

    with asyncio.Runner() as runner:
        opening = open_services(make_settings(postgres_url, valkey.url), name="test")
        services = runner.run(opening.__aenter__())
        db = runner.run(asyncpg.connect(postgres_url))

        @settings(
            max_examples=EXAMPLES,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
            derandomize=True,
        )
        @given(hearings())
        def check(hearing):
            name, heard = hearing
            tried.add((name, heard))
            assert runner.run(hear(services, db, name, heard)) == ENDS[name]

        try:
            check()
            runner.run(assert_invariants(services.database))
        finally:
            runner.run(db.close())
            runner.run(opening.__aexit__(None, None, None))
    sys.stdout.write(f"sequences of webhooks tried: {len(tried)}, of {len(LIVES)} lives\n")
    assert len(tried) > EXAMPLES / 2
