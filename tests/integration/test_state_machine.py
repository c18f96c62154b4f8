"""Buy, pay, decline, time out, expire, cancel, lose the gate, in any order: the invariants hold after every step."""

import asyncio
import os
import uuid

import asyncpg
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from flashsale.bootstrap.api import open_services
from flashsale.bootstrap.jobs import open_jobs
from flashsale.domain.errors import FlashSaleError
from flashsale.domain.payments import ChargeOutcome
from flashsale.domain.products import PaymentMode
from flashsale.domain.users import Principal, Role
from tests.conftest import TEMPLATE, add_buyers, add_product, assert_invariants, execute, make_settings, with_database
from tests.support.charging import Gateway, charging
from tests.support.gates import ask

UNITS, BUYERS = 4, 3


def test_the_invariants_hold_after_every_step(postgres, valkey):  # noqa: C901 - one rule per thing that can happen
    class Sale(RuleBasedStateMachine):
        def __init__(self):
            super().__init__()
            self.loop = asyncio.new_event_loop()
            self.name = f"t_{uuid.uuid4().hex}"
            self.run(execute(postgres.url, f"CREATE DATABASE {self.name} TEMPLATE {TEMPLATE} STRATEGY FILE_COPY"))
            self.settings = make_settings(with_database(postgres.url, self.name), valkey.url, gate={"rate_limit": 0})

        def run(self, coroutine):
            return self.loop.run_until_complete(coroutine)

        @initialize(mode=st.sampled_from(PaymentMode), limit=st.sampled_from([None, 2]))
        def open(self, mode, limit):
            self.opened = [open_services(self.settings), open_jobs(self.settings, name="test")]
            self.services, self.jobs = [self.run(manager.__aenter__()) for manager in self.opened]
            self.db = self.run(asyncpg.connect(self.settings.postgres.url.get_secret_value()))
            self.run(self.services.gate._servers.connection.call(lambda _: [("FLUSHALL",)]))
            self.product = self.run(
                add_product(self.services, allotment=UNITS, payment_mode=mode, limit_per_buyer=limit)
            )
            self.buyers = self.run(add_buyers(self.services, BUYERS))
            self.bodies = {}
            self.orders = {}

        async def attempt(self, coroutine):
            try:
                return await coroutine
            except FlashSaleError as error:
                return error

        def order(self, n):
            return list(self.orders.items())[n % len(self.orders)] if self.orders else (None, None)

        @rule(buyer=st.integers(0, BUYERS - 1), key=st.sampled_from([None, "a", "b"]), quantity=st.integers(1, 2))
        def buy(self, buyer, key, quantity):
            user = self.buyers[buyer]
            result = self.run(self.attempt(self.services.buy(ask(self.product, user, key=key, quantity=quantity))))
            if isinstance(result, FlashSaleError):
                assert (user, key) not in self.bodies or self.bodies[user, key] != quantity or key is None
                return
            if key is not None:
                known = self.bodies.setdefault((user, key), quantity)
                assert known == quantity, "a key answers one body only"
            assert self.orders.setdefault(result.order_id, user) == user

        @rule()
        def work_orders(self):
            if self.orders:
                self.run(self.jobs.process_orders(list(self.orders)))

        @rule(n=st.integers(0, 20), outcome=st.sampled_from(ChargeOutcome))
        def charge(self, n, outcome):
            order_id, _ = self.order(n)
            if order_id is not None:
                self.run(charging(self.services, Gateway(outcome))(order_id))

        @rule(n=st.integers(0, 20))
        def pay(self, n):
            order_id, user = self.order(n)
            if order_id is not None:
                principal = Principal(user_id=user, role=Role.BUYER)
                self.run(self.attempt(self.services.orders.pay(order_id, principal)))

        @rule(n=st.integers(0, 20))
        def cancel(self, n):
            order_id, user = self.order(n)
            if order_id is not None:
                principal = Principal(user_id=user, role=Role.BUYER)
                self.run(self.attempt(self.services.orders.cancel(order_id, principal)))

        @rule()
        def time_passes(self):
            self.run(self.db.execute("UPDATE orders SET due_at = now() WHERE due_at IS NOT NULL"))
            self.run(self.jobs.sweep())

        @rule(loss=st.sampled_from(["FLUSHALL", "SET 0", "SET 1000", "DEL"]))
        def lose_the_gate(self, loss):
            key = f"flashsale:{{{self.product.product_id}}}:stock"
            command = (loss,) if loss == "FLUSHALL" else (loss[:3], key, *loss.split()[1:])
            self.run(self.services.gate._servers.connection.call(lambda _: [command]))

        @rule()
        def reconcile(self):
            self.run(self.jobs.reconcile())

        @invariant()
        def holds(self):
            if hasattr(self, "services"):
                self.run(assert_invariants(self.services.database))

        def teardown(self):
            if hasattr(self, "services"):
                self.run(self.db.close())
                for manager in reversed(self.opened):
                    self.run(manager.__aexit__(None, None, None))
            self.run(execute(postgres.url, f"DROP DATABASE {self.name} WITH (FORCE)"))
            self.run(asyncio.sleep(0))
            self.loop.close()

    run_state_machine_as_test(
        Sale,
        settings=settings(
            max_examples=int(os.environ.get("FLASHSALE_TEST_EXAMPLES", "15")),
            stateful_step_count=25,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            derandomize="CI" in os.environ,
        ),
    )
