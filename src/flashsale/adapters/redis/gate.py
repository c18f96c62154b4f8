"""The gate: natural batches of requests, one script call per product and batch."""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any
from uuid import UUID

import msgspec

from flashsale.adapters.redis.connection import Command, GateAway, GateConnection
from flashsale.domain.gate import Admission, Admitted, GateReturn, GateState, Lease
from flashsale.domain.products import ALLOTMENT_MAX
from flashsale.usecases.batching import Batcher

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from flashsale.domain.products import Product
    from flashsale.domain.requests import BuyRequest
    from flashsale.settings import GateSettings, RedisSettings

SECONDS_PER_MINUTE = 60

DECIDED_WAIT_S = 0.05
"""How long settled and returned leases wait for a batch to ride on before they go alone."""

DECIDED_MAX = 100_000
"""Decisions that wait at most; further ones are left to the leases' deadlines."""

LISTED_MAX = 1000

LEASE_FACTOR = 2
"""A lease that is longer than this many times the setting's was not made by a process of ours. Change it in steps."""

READ_AT_ONCE = 100
"""Most products whose state is read in one round trip."""

Asked = tuple["Product", UUID, "BuyRequest"]


class RedisGate:
    """Implements `ports.Gate`."""

    def __init__(self, redis: RedisSettings, settings: GateSettings) -> None:
        """Connect when first asked."""
        self._connection = GateConnection(redis)
        self._settings = settings
        self._batcher: Batcher[Asked, Admitted] = Batcher(
            self._flush, batch_max=settings.batch_max, queue_max=settings.queue_max
        )
        self._decided: defaultdict[int, list[tuple[UUID, int, int]]] = defaultdict(list)
        self._decided_count = 0
        self._epochs: dict[int, int] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self.on_unloaded: Callable[[int], None] = lambda _product_id: None
        """Called with a product id whenever the gate turns out not to be loaded with it."""
        self.answers: Counter[str] = Counter()
        """Answers so far, by admission."""

    @property
    def batches(self) -> tuple[int, int]:
        """Give how many batches were sent, and how many requests were in them."""
        return self._batcher.batches, self._batcher.items

    @property
    def away(self) -> bool:
        """Whether the server failed so recently that it is not asked again yet."""
        return self._connection.away

    async def close(self) -> None:
        """Send what is decided and disconnect."""
        if self._timer is not None:
            self._timer.cancel()
        await self._batcher.drain()
        while self._decided_count and not self._connection.away:
            await self._send_decided()
        await self._connection.close()

    async def admit(self, product: Product, order_id: UUID, request: BuyRequest) -> Admitted:
        """Check rate, running requests of the same key, limit and stock, and lease the units, in one step."""
        if self._connection.away:
            answer = _bypass(order_id)
        else:
            answer = await self._batcher.submit((product, order_id, request))
        self.answers[answer.admission] += 1
        return answer

    def settle(self, product_id: int, order_id: UUID) -> None:
        """Drop a lease because Postgres decided and keeps the units; rides on the next batch."""
        self._decide(product_id, (order_id, 0, 0))

    def drop(self, product_id: int, order_id: UUID, *, visible: int) -> None:
        """Drop a lease for which Postgres has too few units, and return those few; the buyer has none of them."""
        self._decide(product_id, (order_id, 2, visible))

    def give_back(self, product_id: int, order_id: UUID, *, held: int = 0) -> None:
        """Return the units of a lease whose proposal is void, and note that the buyer's orders hold `held`."""
        self._decide(product_id, (order_id, 1, held))

    async def load(self, product_id: int, *, epoch: int, stock: int) -> bool:
        """Install epoch and stock and drop everything older; False if a newer epoch is there, or the gate is away."""
        keys = _keys(product_id, "epoch", "run", "stock", "leases", "lease", "keys", "buyers", "returns", "returned")
        reply = await self._single(lambda run_id: self._connection.script("load", keys, (run_id, epoch, stock)))
        return bool(reply == 1)

    async def state(self, product_id: int, epoch: int) -> GateState:
        """Read what the gate holds, compared with Postgres' epoch; a gate that is away is not loaded."""
        return (await self.states({product_id: epoch}))[product_id]

    async def states(self, epochs: Mapping[int, int]) -> dict[int, GateState]:
        """Read what the gate holds for several products; one round trip for each READ_AT_ONCE of them."""
        products = list(epochs)
        states: dict[int, GateState] = {}
        for at in range(0, len(products), READ_AT_ONCE):
            part = products[at : at + READ_AT_ONCE]
            replies = await self._read(part, only_overdue=False, limit=LISTED_MAX)
            states |= {
                product_id: self._state(product_id, epochs[product_id], reply)
                for product_id, reply in zip(part, replies, strict=True)
            }
        return states

    def _state(self, product_id: int, epoch: int, reply: list[Any] | None) -> GateState:
        if reply is None:
            return GateState(loaded=False, epoch=None, stock=0, leases=0, leased_units=0, leased_order_ids=())
        stored, ours, stock, count, units, flat = reply
        leases = _leases(flat)
        # A lease that cannot be read is not ours: it would never be settled.
        if loaded := ours == 1 and stored == str(epoch) and len(leases) * 2 == len(flat):
            self._epochs[product_id] = epoch
        return GateState(
            loaded=loaded,
            epoch=int(stored) if stored.isdigit() else None,
            stock=int(stock) if stock.isdigit() else 0,
            leases=count,
            leased_units=units,
            leased_order_ids=tuple(lease.order_id for lease in leases),
        )

    async def unloaded(self, products: Sequence[Product]) -> list[int]:
        """Give the products with which the gate is not loaded, all if it is away, by one command."""
        keys = [key for product in products for key in _keys(product.product_id, "epoch", "run")]
        now = ""

        def build(run_id: str) -> list[Command]:
            nonlocal now
            now = run_id
            return [("MGET", *keys)]

        try:
            (values,) = await self._connection.call(build)
        except GateAway:
            return [product.product_id for product in products]
        pairs = zip(products, values[::2], values[1::2], strict=True)
        return [product.product_id for product, *held in pairs if held != [str(product.epoch), now]]

    async def overdue_leases(self, product_id: int, *, limit: int) -> Sequence[Lease]:
        """Give leases past their deadline by the gate's own clock."""
        (reply,) = await self._read([product_id], only_overdue=True, limit=limit)
        return [] if reply is None else _leases(reply[5])

    async def return_units(self, product_id: int, returns: Sequence[GateReturn]) -> bool:
        """Count released units as free again: each order once; all of one epoch, the gate's."""
        keys = _keys(product_id, "epoch", "run", "stock", "buyers", "returns")
        epoch = returns[0].epoch
        flat = [value for one in returns for value in (str(one.order_id), str(one.user_id), one.quantity)]
        reply = await self._single(
            lambda run_id: self._connection.script("return", keys, (run_id, epoch, ALLOTMENT_MAX, *flat))
        )
        return bool(reply == 1)

    async def _read(self, product_ids: Sequence[int], *, only_overdue: bool, limit: int) -> list[list[Any] | None]:
        def build(run_id: str) -> list[Command]:
            names = ("epoch", "run", "stock", "leases", "lease", "keys", "buyers")
            lease_ms_max = round(self._settings.lease_s * 1000 * LEASE_FACTOR)
            arguments = (run_id, ALLOTMENT_MAX, lease_ms_max, limit, int(only_overdue))
            return [self._connection.script("state", _keys(one, *names), arguments) for one in product_ids]

        try:
            return await self._connection.call(build)
        except GateAway:
            return [None] * len(product_ids)

    async def _single(self, build: Callable[[str], Command]) -> Any:
        try:
            return (await self._connection.call(lambda run_id: [build(run_id)]))[0]
        except GateAway:
            return None

    def _decide(self, product_id: int, decided: tuple[UUID, int, int]) -> None:
        if self._decided_count >= DECIDED_MAX:
            return
        self._decided[product_id].append(decided)
        self._decided_count += 1
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(DECIDED_WAIT_S, self._send_decided_soon)

    def _send_decided_soon(self) -> None:
        self._timer = None
        if self._decided_count:
            task = asyncio.get_running_loop().create_task(self._send_decided())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _send_decided(self) -> None:
        products = [product_id for product_id, decided in self._decided.items() if decided]
        try:
            await self._connection.call(
                lambda run_id: [
                    self._admit_command(run_id, product_id, self._epochs.get(product_id, 0), 0, [])
                    for product_id in products
                ]
            )
        except GateAway:
            # The leases pass their deadlines and the reconciliation asks Postgres.
            self._decided.clear()
            self._decided_count = 0
        if self._decided_count and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(DECIDED_WAIT_S, self._send_decided_soon)

    async def _flush(self, asked: list[Asked]) -> Sequence[Admitted]:
        groups: dict[int, list[int]] = {}
        for place, (product, _, _) in enumerate(asked):
            groups.setdefault(product.product_id, []).append(place)

        # Requests that waited while the gate was loaded anew know an older epoch than those behind them.
        newest = {
            product_id: max((asked[i][0] for i in places), key=lambda product: product.epoch)
            for product_id, places in groups.items()
        }

        def build(run_id: str) -> list[Command]:
            commands = []
            for product_id, places in groups.items():
                product = newest[product_id]
                self._epochs[product_id] = product.epoch
                commands.append(
                    self._admit_command(
                        run_id, product_id, product.epoch, product.limit_per_buyer or 0, [asked[i] for i in places]
                    )
                )
            return commands

        try:
            replies = await self._connection.call(build)
        except GateAway:
            return [_bypass(order_id) for _, order_id, _ in asked]
        answers: dict[int, Admitted] = {}
        for (product_id, places), reply in zip(groups.items(), replies, strict=True):
            if reply[0] != "ok":
                self.on_unloaded(product_id)
                answers |= {place: _bypass(asked[place][1]) for place in places}
                continue
            for place, text in zip(places, reply[1], strict=True):
                answers[place] = self._answer(text, newest[product_id], asked[place][1], leases=reply[3])
        return [answers[place] for place in range(len(asked))]

    def _answer(self, text: str, product: Product, order_id: UUID, *, leases: int) -> Admitted:
        if text == "admitted":
            return Admitted(Admission.ADMITTED, order_id, product.epoch)
        name, _, detail = text.partition(":")
        if name == "leased":
            try:
                return Admitted(admission=Admission.ADMITTED, order_id=UUID(detail), epoch=product.epoch)
            except ValueError:
                # Nobody of ours wrote that; the reconciliation finds it too.
                self.on_unloaded(product.product_id)
                return _bypass(order_id)
        if name == "rate_limited":
            window_s = int(detail)
            retry_after_s = max(1, math.ceil(window_s - time.time() % window_s))
            return Admitted(
                admission=Admission.RATE_LIMITED,
                order_id=order_id,
                epoch=None,
                window_s=window_s,
                retry_after_s=retry_after_s,
            )
        return Admitted(admission=Admission(name), order_id=order_id, epoch=None, leases=leases)

    def _admit_command(
        self, run_id: str, product_id: int, epoch: int, limit_per_buyer: int, asked: list[Asked]
    ) -> Command:
        settings = self._settings
        now = time.time()
        keys = _keys(product_id, "epoch", "run", "stock", "leases", "lease", "keys", "buyers")
        keys.append(f"flashsale:{{{product_id}}}:rate:{int(now // settings.rate_window_s)}")
        keys.append(f"flashsale:{{{product_id}}}:tries:{int(now // SECONDS_PER_MINUTE)}")
        waiting = self._decided[product_id]
        decided, self._decided[product_id] = waiting[: settings.batch_max], waiting[settings.batch_max :]
        self._decided_count -= len(decided)
        # One argument instead of four for each request: neither side makes and frees them one by one.
        requests = [(order_id, request.user_id, request.quantity, request.key or "") for _, order_id, request in asked]
        arguments = (
            run_id,
            epoch,
            ALLOTMENT_MAX,
            round(settings.lease_s * 1000),
            settings.rate_limit,
            settings.rate_window_s,
            settings.attempts_per_minute,
            limit_per_buyer,
            msgspec.msgpack.encode((decided, requests)),
        )
        return self._connection.script("admit", keys, arguments)


def _bypass(order_id: UUID) -> Admitted:
    return Admitted(admission=Admission.BYPASS, order_id=order_id, epoch=None)


def _keys(product_id: int, *names: str) -> list[str]:
    # One hash tag per product: in a cluster, a product lives in one slot.
    return [f"flashsale:{{{product_id}}}:{name}" for name in names]


def _leases(flat: list[str]) -> list[Lease]:
    leases = []
    for order_id, value in zip(flat[::2], flat[1::2], strict=True):
        units, _, rest = value.partition(":")
        try:
            leases.append(Lease(order_id=UUID(order_id), user_id=UUID(rest.partition(":")[0]), quantity=int(units)))
        except ValueError:
            # A foreign value: no lease of ours.
            continue
    return leases
