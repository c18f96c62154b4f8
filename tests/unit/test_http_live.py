import asyncio
import itertools
import json
import weakref
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from types import SimpleNamespace
from uuid import uuid4

import pytest

from flashsale.domain.errors import OrderNotFound, ProductNotFound, Unavailable
from flashsale.domain.money import Money
from flashsale.domain.orders import OrderStatus
from flashsale.domain.products import LiveStock, PaymentMode, Product
from flashsale.domain.users import Principal, Revocation, Role
from flashsale.http.auth import Tokens
from flashsale.http.streams.channel import Stream
from flashsale.http.streams.held import Streams, StreamsOutlast
from flashsale.http.streams.hub import LiveHub
from flashsale.usecases.catalog import Catalog, CatalogFeed
from flashsale.usecases.live_changes import Connected, OrderChanged, ProductChanged
from flashsale.usecases.revocations import Revocations
from tests.conftest import make_settings

OWNER = Principal(user_id=uuid4(), role=Role.BUYER)
NOW = datetime(2026, 1, 1, tzinfo=UTC)


class Products:
    """The port, over a dict."""

    def __init__(self):
        self.live = {1: LiveStock(product_id=1, free=10, version=1)}
        self.away = False
        self.name, self.version = "Phone", 1

    async def all(self, _=None):
        return [
            (
                Product(
                    product_id=product_id, name=self.name, version=self.version, price=Money(minor=99_999, currency="USD"), allotment=10, unmade=0,
                    payment_mode=PaymentMode.AUTOMATIC, payment_window_s=300, limit_per_buyer=None, starts_at=None,
                    ends_at=None, paused=False, epoch=1, created_at=NOW, updated_at=NOW,
                ),
                NOW,
            )
            for product_id in self.live
        ]  # fmt: skip

    async def stocks(self, _=None):
        if self.away:
            raise Unavailable
        return list(self.live.values())


class Feed:
    """The port, fed by hand."""

    connected = True

    def __init__(self):
        self.queue = asyncio.Queue()

    async def changes(self):
        while True:
            yield await self.queue.get()


class OrderRows:
    """Orders, and the desk that shows them to their owner."""

    def __init__(self):
        self.rows, self.reads = {}, 0

    def put(self, order_id, status, version, changes=0):
        self.rows[order_id] = SimpleNamespace(
            order_id=order_id, user_id=OWNER.user_id, status=status, version=version, changes=changes
        )

    async def get_many(self, order_ids):
        self.reads += 1
        return {order_id: self.rows[order_id] for order_id in order_ids if order_id in self.rows}

    async def get(self, order_id, principal):
        if principal != OWNER or order_id not in self.rows:
            raise OrderNotFound
        return self.rows[order_id]


class NoRevocations:
    async def revocations(self, *, since_s):
        return []


class World:
    """A hub, its streams and what feeds them."""

    def __init__(self, **live):
        settings = make_settings("postgresql://x@127.0.0.1:9/x", "redis://127.0.0.1:9", live=live)
        self.products, self.feed, self.orders = Products(), Feed(), OrderRows()
        self.catalog = Catalog(self.products, poll_s=60)
        self.revocations = Revocations(NoRevocations(), token_s=60, poll_s=60)
        services = SimpleNamespace(
            settings=settings,
            products=self.products,
            catalog=self.catalog,
            feed=CatalogFeed(self.feed, self.catalog),
            order_rows=self.orders,
            orders=self.orders,
            revocations=self.revocations,
        )
        self.hub = LiveHub(services)
        self.streams = Streams(services, Tokens(settings.auth), self.hub)

    def rename(self, name, version):
        self.products.name, self.products.version = name, version
        self.feed.queue.put_nowait(ProductChanged(product_id=1))

    def change(self, free, version):
        stock = LiveStock(product_id=1, free=free, version=version)
        self.products.live[1] = stock
        self.feed.queue.put_nowait(stock)


class Client:
    """The far end of a stream: what it was sent, and a way to leave. `slow` holds every send back until it is set."""

    def __init__(self):
        self.events, self.details, self.comments, self.status, self.ended = [], [], 0, None, False
        self.told = asyncio.Condition()
        self.gone = asyncio.Event()
        self.ready = asyncio.Event()
        self.ready.set()

    async def receive(self):
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message):
        await self.ready.wait()
        async with self.told:
            if message["type"] == "http.response.start":
                self.status = message["status"]
            else:
                self.ended = not message["more_body"]
                self.comments += message["body"].startswith(b":")
                _, named, event = message["body"].decode().partition("event: ")
                if named:
                    name, data = event.strip().split("\ndata: ")
                    self.details.append((name, json.loads(data)))
                if message["body"].startswith(b"id:"):
                    first, second = message["body"].decode().strip().split("\n")
                    self.events.append(json.loads(second.removeprefix("data: ")))
                    assert int(first.removeprefix("id: ")) == self.events[-1]["version"]
            self.told.notify_all()

    async def until(self, condition):
        async with asyncio.timeout(60), self.told:
            await self.told.wait_for(condition)


@asynccontextmanager
async def world(**live):
    made = World(**{"poll_s": 60, **live})
    await made.revocations.refresh()
    running = asyncio.create_task(made.hub.run())
    yield made
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


@asynccontextmanager
async def watching(answer, scope=None):
    client = Client()
    task = asyncio.create_task(StreamsOutlast(answer)(scope or {"method": "GET"}, client.receive, client.send))
    yield client
    client.gone.set()
    client.ready.set()
    await asyncio.wait_for(task, 60)


async def test_a_stream_begins_with_the_newest_value_and_never_repeats_what_the_client_has():
    async with (
        world() as here,
        watching(await here.streams.stock(1, 0)) as fresh,
        watching(await here.streams.stock(1, 1)) as known,
    ):
        await fresh.until(lambda: fresh.events == [{"productId": 1, "stock": 10, "version": 1}])
        here.change(9, 2)
        await fresh.until(lambda: len(fresh.events) == 2)
        await known.until(lambda: known.events == [{"productId": 1, "stock": 9, "version": 2}])


async def test_an_older_version_is_never_sent_after_a_newer_one():
    async with world(interval_s=0.01) as here, watching(await here.streams.stock(1, 0)) as client:
        here.change(7, 4)
        await client.until(lambda: client.events and client.events[-1]["version"] == 4)
        here.feed.queue.put_nowait(LiveStock(product_id=1, free=9, version=2))
        here.change(6, 5)
        await client.until(lambda: client.events[-1]["version"] == 5)
        versions = [event["version"] for event in client.events]
        assert versions == sorted(set(versions))
        assert 2 not in versions


async def test_changes_in_one_interval_are_one_event_with_the_last_of_them():
    async with world(interval_s=0.2) as here, watching(await here.streams.stock(1, 0)) as client:
        await client.until(lambda: client.events)
        for version in range(2, 102):
            here.change(10_000 - version, version)
        await client.until(lambda: client.events[-1]["version"] == 101)
        assert len(client.events) <= 3


async def test_a_slow_client_skips_what_it_missed_and_nobody_waits_for_it():
    async with (
        world(interval_s=0.01) as here,
        watching(await here.streams.stock(1, 0)) as slow,
        watching(await here.streams.stock(1, 0)) as quick,
    ):
        await slow.until(lambda: slow.events)
        slow.ready.clear()
        for version in range(2, 12):
            here.change(100 - version, version)
            await quick.until(lambda wanted=version: quick.events and quick.events[-1]["version"] == wanted)
        slow.ready.set()
        await slow.until(lambda: slow.events[-1]["version"] == 11)
        assert len(slow.events) <= 3


async def test_a_lost_notification_is_made_good_when_the_connection_stands_again():
    async with world() as here:
        order_id = uuid4()
        here.orders.put(order_id, OrderStatus.QUEUED, 1)
        stock, order = await here.streams.stock(1, 0), await here.streams.order(order_id, OWNER, 0)
        async with watching(stock) as one, watching(order) as other:
            await one.until(lambda: one.events)
            await other.until(lambda: other.events)
            here.products.live[1] = LiveStock(product_id=1, free=3, version=8)
            here.orders.put(order_id, OrderStatus.AWAITING_PAYMENT, 3)
            here.feed.queue.put_nowait(Connected())
            await one.until(lambda: one.events[-1] == {"productId": 1, "stock": 3, "version": 8})
            await other.until(lambda: other.events[-1]["status"] == "awaiting_payment")


async def test_without_any_notification_polling_shows_an_orders_change():
    async with world(poll_s=0.05) as here:
        order_id = uuid4()
        here.orders.put(order_id, OrderStatus.QUEUED, 1)
        async with watching(await here.streams.order(order_id, OWNER, 0)) as client:
            await client.until(lambda: client.events)
            here.orders.put(order_id, OrderStatus.AWAITING_PAYMENT, 3)
            await client.until(lambda: client.events[-1]["version"] == 3)


async def test_without_any_notification_a_poll_now_and_then_shows_what_follows_a_final_state():
    async with world(poll_s=0.01) as here:
        order_id = uuid4()
        here.orders.put(order_id, OrderStatus.CONFIRMED, 5)
        async with watching(await here.streams.order(order_id, OWNER, 0, details=True)) as client:
            await client.until(lambda: client.events)
            here.orders.put(order_id, OrderStatus.CONFIRMED, 5, changes=1)
            await client.until(lambda: client.details)
            assert here.orders.reads <= 2, "nearly all polls leave out what is final"


async def test_a_change_between_snapshot_and_subscription_is_not_lost():
    async with world() as here:
        order_id = uuid4()
        here.orders.put(order_id, OrderStatus.QUEUED, 1)
        answer = await here.streams.order(order_id, OWNER, 0)
        here.orders.put(order_id, OrderStatus.AWAITING_PAYMENT, 3)
        async with watching(answer) as client:
            await client.until(lambda: client.events and client.events[-1]["version"] == 3)
            assert [event["version"] for event in client.events] == [3]


async def test_an_order_stream_ends_with_the_final_state_and_then_says_not_to_come_back():
    async with world() as here:
        order_id = uuid4()
        here.orders.put(order_id, OrderStatus.PROCESSING_PAYMENT, 4)
        async with watching(await here.streams.order(order_id, OWNER, 0)) as client:
            await client.until(lambda: client.events)
            here.orders.put(order_id, OrderStatus.CONFIRMED, 5)
            here.feed.queue.put_nowait(OrderChanged(order_id=order_id, status=OrderStatus.CONFIRMED, version=5))
            await client.until(lambda: client.ended)
            assert client.events[-1] == {"orderId": str(order_id), "status": "confirmed", "version": 5}
        async with watching(await here.streams.order(order_id, OWNER, 5)) as again:
            await again.until(lambda: again.ended)
            assert (again.status, again.events) == (204, [])


async def test_a_product_is_told_at_the_beginning_and_after_each_change_to_those_who_ask_for_it():
    async with (
        world() as here,
        watching(await here.streams.stock(1, 0)) as plain,
        watching(await here.streams.stock(1, 1, details=True)) as client,
    ):
        await plain.until(lambda: plain.events)
        await client.until(lambda: [(name, data["version"]) for name, data in client.details] == [("product", 1)])
        assert "stock" not in client.details[0][1], "it has versions of its own"
        here.rename("Watch", 3)
        await client.until(lambda: client.details[-1][1]["name"] == "Watch")
        for stock, (name, version) in ((2, ("older", 2)), (3, ("the same", 3))):
            here.rename(name, version)
            here.change(10 - stock, stock)
            await client.until(lambda stock=stock: client.events and client.events[-1]["version"] == stock)
        assert [(data["version"], data["name"]) for _, data in client.details] == [(1, "Phone"), (3, "Watch")]
        await plain.until(lambda: plain.events[-1]["version"] == 3)
        assert plain.details == []


async def test_a_lost_notification_of_a_product_is_made_good_by_the_next_reading():
    async with world() as here, watching(await here.streams.stock(1, 0, details=True)) as client:
        await client.until(lambda: client.details)
        here.products.name, here.products.version = "Watch", 2
        here.feed.queue.put_nowait(Connected())
        await client.until(lambda: client.details[-1][1]["name"] == "Watch")


async def test_a_stream_with_details_goes_on_after_a_state_that_something_may_follow():
    async with world() as here:
        order_id = uuid4()
        here.orders.put(order_id, OrderStatus.CONFIRMED, 5, changes=1)
        async with (
            watching(await here.streams.order(order_id, OWNER, 0)) as plain,
            watching(await here.streams.order(order_id, OWNER, 5, details=True)) as client,
        ):
            await plain.until(lambda: plain.ended)
            assert client.details == [("changed", {"orderId": str(order_id), "changes": 1})]
            for changes in (2, 1):
                told = OrderChanged(order_id=order_id, status=OrderStatus.CONFIRMED, version=5, changes=changes)
                here.feed.queue.put_nowait(told)
            here.feed.queue.put_nowait(OrderChanged(order_id=order_id, status=OrderStatus.REFUND_PENDING, version=6))
            await client.until(lambda: client.events and client.events[-1]["version"] == 6)
            assert [data["changes"] for _, data in client.details] == [1, 2]
            assert not client.ended
            channel = here.hub._orders[order_id]
            for changes in (4, 3):
                channel.put_details(changes, b"changed", {"changes": changes})
            assert channel.details.version == 4, "the late one replaces nothing, also before the newer one is sent"
            here.orders.put(order_id, OrderStatus.REFUNDED, 7, changes=2)
            here.feed.queue.put_nowait(OrderChanged(order_id=order_id, status=OrderStatus.REFUNDED, version=7))
            await client.until(lambda: client.ended)
            assert (client.events[-1]["status"], plain.details) == ("refunded", [])
        for details in (True, False):
            async with watching(await here.streams.order(order_id, OWNER, 7, details=details)) as again:
                await again.until(lambda again=again: again.ended)
                assert again.status == 204


async def test_a_stream_that_is_not_the_callers_is_refused_before_anything_is_watched():
    async with world() as here:
        order_id = uuid4()
        here.orders.put(order_id, OrderStatus.QUEUED, 1)
        with pytest.raises(OrderNotFound):
            await here.streams.order(order_id, Principal(user_id=uuid4(), role=Role.BUYER), 0)
        with pytest.raises(ProductNotFound):
            await here.streams.stock(2, 0)
        assert not here.hub._orders
        assert not here.hub._stock


async def test_a_value_that_comes_while_another_is_being_sent_reaches_everybody(monkeypatch):
    monkeypatch.setattr("flashsale.http.streams.channel.SLICE", 2)
    async with world() as here, AsyncExitStack() as streams:
        clients = [await streams.enter_async_context(watching(await here.streams.stock(1, 0))) for _ in range(7)]
        for client in clients:
            await client.until(lambda client=client: client.events)
        channel = here.hub._stock[1]
        for version in range(2, 5):
            channel.put(version, {"version": version})
        assert 2 in {client.events[-1]["version"] for client in clients}, "the first slice is sent at once"
        assert 1 in {client.events[-1]["version"] for client in clients}, "the others have their turn later"
        for client in clients:
            await client.until(lambda client=client: client.events[-1]["version"] == 4)
            versions = [event["version"] for event in client.events]
            assert versions == sorted(set(versions))


async def test_between_rounds_of_more_than_one_slice_lies_a_pause(monkeypatch):
    worked_s = itertools.count(0, 3600)
    monkeypatch.setattr("flashsale.http.streams.channel.SLICE", 2)
    monkeypatch.setattr("flashsale.http.streams.channel.PAUSE_MAX_S", 3600)
    monkeypatch.setattr("flashsale.http.streams.channel.time", SimpleNamespace(thread_time=lambda: next(worked_s)))
    async with world() as here, AsyncExitStack() as streams:
        clients = [await streams.enter_async_context(watching(await here.streams.stock(1, 0))) for _ in range(5)]
        for client in clients:
            await client.until(lambda client=client: client.events)
        channel = here.hub._stock[1]
        for version in (2, 3):
            channel.put(version, {"version": version})
        while not channel._pausing:
            await asyncio.sleep(0)
        channel.put(4, {"version": 4})
        channel.keep_alive(0)
        assert {client.events[-1]["version"] for client in clients} == {2, 3}
        assert not any(client.comments for client in clients)
        channel._go_on()
        for client in clients:
            await client.until(lambda client=client: client.events[-1]["version"] == 4)
        assert {len(client.events) for client in clients} == {3}, "what came in the pause is one event"
        assert not channel._pausing, "nothing waits for another round"


async def test_a_stream_that_fails_does_not_end_the_others():
    async def fail(message):
        raise RuntimeError

    async with world() as here, watching(await here.streams.stock(1, 0)) as client:
        await client.until(lambda: client.events)
        channel = here.hub._stock[1]
        channel.streams = {Stream(channel, 1, fail), *channel.streams}
        for version in (2, 3):
            here.change(10 - version, version)
            await client.until(lambda version=version: client.events[-1]["version"] == version)
        assert len(channel.streams) == 1


async def test_a_slow_client_is_told_the_last_value_and_the_end_too():
    async with world() as here:
        order_id = uuid4()
        here.orders.put(order_id, OrderStatus.PROCESSING_PAYMENT, 4)
        async with watching(await here.streams.order(order_id, OWNER, 0)) as slow:
            await slow.until(lambda: slow.events)
            slow.ready.clear()
            here.orders.put(order_id, OrderStatus.CONFIRMED, 5)
            channel = here.hub._orders[order_id]
            here.hub.put_order(channel, here.orders.rows[order_id])
            channel.keep_alive(0)
            slow.ready.set()
            await slow.until(lambda: slow.ended)
            assert [event["version"] for event in slow.events] == [4, 5]
            assert not slow.comments


async def test_an_open_stream_keeps_nothing_of_the_request_that_began_it():
    async with world() as here:
        request = asyncio.Event()
        kept = weakref.ref(request)
        scope = {"method": "GET", "request": request}
        del request
        async with watching(await here.streams.stock(1, 0), scope) as client:
            await client.until(lambda: client.events)
            assert kept() is None


async def test_streams_leave_nothing_behind():
    async with world() as here:
        order_id = uuid4()
        here.orders.put(order_id, OrderStatus.QUEUED, 1)
        stock, order = await here.streams.stock(1, 0), await here.streams.order(order_id, OWNER, 0)
        async with watching(stock) as one, watching(order) as other:
            await one.until(lambda: one.events)
            await other.until(lambda: other.events)
            assert here.streams._open == 2
            assert list(here.hub._orders) == [order_id]
            other.ready.clear()
            here.orders.put(order_id, OrderStatus.AWAITING_PAYMENT, 3)
            here.hub.put_order(here.hub._orders[order_id], here.orders.rows[order_id])
        assert here.streams._open == 0
        assert not here.hub._orders
        assert not here.hub._stock[1].streams


async def test_streams_that_come_at_once_do_not_pass_the_most_there_may_be():
    async with world(streams_max=1) as here:
        # Both were let in while none was open yet; only one of them may become a stream.
        first, second = await here.streams.stock(1, 0), await here.streams.stock(1, 0)
        async with watching(first) as client:
            await client.until(lambda: client.events)
            refused = Client()
            with pytest.raises(Unavailable):
                await second({}, refused.receive, refused.send)
            assert refused.status is None
            with pytest.raises(Unavailable):
                await here.streams.stock(1, 0)


async def test_a_silent_stream_gets_comments():
    async with world(keepalive_s=0.02) as here, watching(await here.streams.stock(1, 0)) as client:
        await client.until(lambda: client.comments >= 3)
        assert len(client.events) == 1


async def test_a_stream_opens_with_what_is_known_while_the_database_is_away():
    async with world() as here:
        await here.catalog.refresh()
        here.products.away = True
        async with watching(await here.streams.stock(1, 0)) as client:
            await client.until(lambda: client.events and client.events[0]["stock"] == 10)


async def test_a_stopping_process_ends_its_streams_and_new_ones_at_once(monkeypatch):
    monkeypatch.setattr("flashsale.http.streams.channel.CLOSE_SPREAD_S", 0.05)
    async with world() as here, watching(await here.streams.stock(1, 0)) as client:
        await client.until(lambda: client.events)
        here.hub.close()
        await client.until(lambda: client.ended)
        # An EventSource comes back after an end, but never after a 503.
        async with watching(await here.streams.stock(1, 0)) as late:
            await late.until(lambda: late.ended)
            assert late.status == 200


async def test_streams_of_a_stopping_process_do_not_all_end_at_once(monkeypatch):
    monkeypatch.setattr("flashsale.http.streams.channel.CLOSE_SPREAD_S", 1.0)
    async with world() as here, AsyncExitStack() as streams:
        clients = [await streams.enter_async_context(watching(await here.streams.stock(1, 0))) for _ in range(30)]
        for client in clients:
            await client.until(lambda client=client: client.events)
        here.hub.close()
        ends = [asyncio.create_task(client.until(lambda client=client: client.ended)) for client in clients]
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        assert sum(client.ended for client in clients) < len(clients)
        await asyncio.gather(*ends)


async def test_a_stream_ends_when_its_watcher_is_signed_out():
    async with world() as made:
        ending = asyncio.create_task(made.streams.end_revoked())
        order_id = uuid4()
        made.orders.put(order_id, OrderStatus.AWAITING_PAYMENT, 2)
        async with (
            watching(await made.streams.order(order_id, OWNER, 0)) as client,
            watching(await made.streams.stock(1, 0)) as other,
        ):
            await client.until(lambda: client.events)
            made.revocations.take(Revocation(user_id=uuid4(), generation=9))
            made.revocations.take(Revocation(user_id=OWNER.user_id, generation=OWNER.generation + 1))
            await client.until(lambda: client.ended)
            assert not other.ended
        ending.cancel()
        assert not made.streams._private
