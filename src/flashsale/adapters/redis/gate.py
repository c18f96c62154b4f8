"""The gate: natural batches of requests, one script call per product and batch."""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import UUID

import msgspec
import structlog

from flashsale.adapters.redis.connection import AWAY, Ask, Command, ScriptFailed, run_script
from flashsale.adapters.redis.decisions import Decision, Decisions
from flashsale.adapters.redis.servers import open_servers
from flashsale.domain.gate import Admission, Admitted, GateReturn, GateState, Lease, LeaseEnd
from flashsale.domain.products import ALLOTMENT_MAX
from flashsale.usecases.batching import Batcher

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from flashsale.domain.products import Product
    from flashsale.domain.requests import BuyRequest
    from flashsale.settings.groups import GateSettings, RedisSettings

SECONDS_PER_MINUTE = 60

DECIDED_WAIT_S = 0.05
"""How long decisions about leases wait for a batch of requests before they are sent alone."""

LISTED_MAX = 1000

LEASE_FACTOR = 2
"""A lease that is longer than this many times the setting's was not made by a process of ours. Change it in steps."""

READ_AT_ONCE = 100
"""Maximum number of products whose state is read in one round trip."""

log = structlog.get_logger(__name__)


class _Asked(NamedTuple):
    """A request that waits for the gate's answer."""

    product: Product
    order_id: UUID
    request: BuyRequest


class _Group(NamedTuple):
    """The content of one script call."""

    product: Product | None
    """The product as it was last read; None if the call carries only decisions."""
    asked: Sequence[_Asked]


class _Stored(NamedTuple):
    """The result of `state.lua`."""

    epoch: str
    sound: int
    """1 if the server that runs now was loaded and every value has the form that our scripts write."""
    stock: str
    leases: int
    units: int
    """The units of all leases."""
    listed: list[str]
    """Order ids, each followed by its lease."""


class _Answers(NamedTuple):
    """The result of `admit.lua` if the gate is loaded."""

    said: str
    answers: list[str]
    stock: int
    leases: int


class RedisGate:
    """Implements `ports.Gate`."""

    def __init__(self, redis: RedisSettings, settings: GateSettings) -> None:
        """Keep the settings; the first call connects."""
        self._servers = open_servers(redis)
        self._settings = settings
        self._batcher: Batcher[_Asked, Admitted] = Batcher(
            self._flush, batch_max=settings.batch_max, queue_max=settings.queue_max
        )
        self._decided = Decisions()
        self._failed: dict[int, int] = {}
        """Epochs of products whose admission failed in the script; a load replaces the invalid keys."""
        self._timer: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self.on_unloaded: Callable[[int], None] = lambda _product_id: None
        """Called with a product id whenever the gate turns out not to be loaded with it."""
        self.answers: Counter[str] = Counter()
        """Answers so far, by admission."""

    @property
    def batches(self) -> tuple[int, int]:
        """Return how many batches were sent, and how many requests were in them."""
        return self._batcher.batches, self._batcher.items

    def away(self, product_id: int) -> bool:
        """Whether the last failure of a product's server is so recent that no call is tried yet."""
        return self._servers.away(str(product_id))

    async def close(self) -> None:
        """Send the waiting decisions and disconnect."""
        if self._timer is not None:
            self._timer.cancel()
        await self._batcher.drain()
        before = math.inf
        # Ends as soon as nothing more gets through; the deadlines end the leases that are left.
        while len(self._decided) < before and not all(map(self.away, self._decided.products)):
            before = len(self._decided)
            await self._send_decided()
        await self._servers.close()

    async def admit(self, product: Product, order_id: UUID, request: BuyRequest) -> Admitted:
        """Check rate, running requests of the same key, limit and stock, and lease the units, in one step."""
        if self.away(product.product_id):
            answer = _bypass(order_id)
        else:
            answer = await self._batcher.submit(_Asked(product, order_id, request))
        self.answers[answer.admission] += 1
        return answer

    def settle(self, product_id: int, order_id: UUID) -> None:
        """Drop a lease because Postgres decided and keeps the units; sent with the next batch."""
        self._decide(product_id, order_id, LeaseEnd.KEPT)

    def drop(self, product_id: int, order_id: UUID, *, visible: int) -> None:
        """Drop a lease for which Postgres has too few units, and return the few; the buyer gets none of them."""
        self._decide(product_id, order_id, LeaseEnd.SHORT, visible)

    def give_back(self, product_id: int, order_id: UUID, *, held: int = 0) -> None:
        """Return the units of a lease whose proposal is void, and note that the buyer's orders hold `held`."""
        self._decide(product_id, order_id, LeaseEnd.GIVEN_BACK, held)

    async def load(self, product_id: int, *, epoch: int, stock: int) -> bool:
        """Write epoch and stock, and drop everything older. False if the gate has a newer epoch or is down."""
        names = ("epoch", "run", "stock", "leases", "lease", "keys", "buyers", "returns", "returned", "cooling")
        keys = _keys(product_id, *names)
        reply = await self._single(product_id, lambda run_id: run_script("load", keys, (run_id, epoch, stock)))
        return bool(reply == 1)

    async def state(self, product_id: int, epoch: int) -> GateState:
        """Read the state of the gate under Postgres' epoch. A gate that is down counts as not loaded."""
        return (await self.states({product_id: epoch}))[product_id]

    async def states(self, epochs: Mapping[int, int]) -> dict[int, GateState]:
        """Read the state of several products, READ_AT_ONCE products per round trip."""
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

    def _state(self, product_id: int, epoch: int, stored: _Stored | None) -> GateState:
        if stored is None:
            return GateState(loaded=False, epoch=None, stock=0, leases=0, leased_units=0, leased_order_ids=())
        leases = _leases(stored.listed)
        return GateState(
            # No process of ours wrote a lease that cannot be read, so nobody would ever settle it.
            loaded=stored.sound == 1
            and stored.epoch == str(epoch)
            and len(leases) * 2 == len(stored.listed)
            and self._failed.get(product_id) != epoch,
            epoch=int(stored.epoch) if stored.epoch.isdigit() else None,
            stock=int(stored.stock) if stored.stock.isdigit() else 0,
            leases=stored.leases,
            leased_units=stored.units,
            leased_order_ids=tuple(lease.order_id for lease in leases),
        )

    async def unloaded(self, products: Sequence[Product]) -> list[int]:
        """Find the products whose gate is not loaded, with one command per server; also those whose server is down.

        In a cluster it is one command per product.
        """
        groups = [products] if self._servers.joins else [[product] for product in products]
        now: dict[int, str] = {}

        def asking(place: int, group: Sequence[Product]) -> Ask:
            keys = [key for product in group for key in _keys(product.product_id, "epoch", "run")]

            def build(run_id: str) -> Command:
                now[place] = run_id
                return ("MGET", *keys)

            return Ask(str(group[0].product_id), build)

        found = []
        replies = await self._servers.send([asking(place, group) for place, group in enumerate(groups) if group])
        for place, (group, values) in enumerate(zip(groups, replies, strict=False)):
            if values is AWAY:
                found += [product.product_id for product in group]
                continue
            pairs = zip(group, values[::2], values[1::2], strict=True)
            found += [product.product_id for product, *held in pairs if held != [str(product.epoch), now[place]]]
        return found

    async def overdue_leases(self, product_id: int, *, limit: int) -> Sequence[Lease]:
        """Return leases past their deadline on the gate's own clock."""
        (reply,) = await self._read([product_id], only_overdue=True, limit=limit)
        return [] if reply is None else _leases(reply.listed)

    async def return_units(self, product_id: int, returns: Sequence[GateReturn]) -> bool:
        """Count released units as free again, for each order once. All have one epoch, which must be the gate's."""
        keys = _keys(product_id, "epoch", "run", "stock", "buyers", "returns", "cooling")
        epoch = returns[0].epoch
        flat = [value for one in returns for value in (str(one.order_id), str(one.user_id), one.quantity, one.cools_ms)]
        reply = await self._single(
            product_id, lambda run_id: run_script("return", keys, (run_id, epoch, ALLOTMENT_MAX, *flat))
        )
        return bool(reply == 1)

    async def _read(self, product_ids: Sequence[int], *, only_overdue: bool, limit: int) -> list[_Stored | None]:
        names = ("epoch", "run", "stock", "leases", "lease", "keys", "buyers")
        lease_ms_max = round(self._settings.lease_s * 1000 * LEASE_FACTOR)

        def asking(product_id: int) -> Ask:
            arguments = (ALLOTMENT_MAX, lease_ms_max, limit, int(only_overdue))
            keys = _keys(product_id, *names)
            return Ask(str(product_id), lambda run_id: run_script("state", keys, (run_id, *arguments)))

        replies = await self._servers.send([asking(one) for one in product_ids])
        return [None if reply is AWAY or isinstance(reply, ScriptFailed) else _Stored(*reply) for reply in replies]

    async def _single(self, product_id: int, build: Callable[[str], Command]) -> Any:
        (reply,) = await self._servers.send([Ask(str(product_id), build)])
        return reply

    def _decide(self, product_id: int, order_id: UUID, end: LeaseEnd, units: int = 0) -> None:
        self._decided.add(Decision(product_id, order_id, end, units, time.monotonic()))
        self._send_decided_later()

    def _send_decided_later(self) -> None:
        if self._decided and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(DECIDED_WAIT_S, self._send_decided_soon)

    def _send_decided_soon(self) -> None:
        self._timer = None
        if self._decided:
            task = asyncio.get_running_loop().create_task(self._send_decided())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _send_decided(self) -> None:
        await self._call(dict.fromkeys(self._decided.products, _Group(None, ())))
        self._send_decided_later()

    async def _call(self, groups: Mapping[int, _Group]) -> list[Any]:
        """Send the requests of each product with the decisions about its leases; AWAY where its server is away."""
        sent: dict[int, list[Decision]] = {}

        def asking(product_id: int, group: _Group) -> Ask:
            def build(run_id: str) -> Command:
                # Taken late, so that those of the last moment are sent, and once, although a node may send us on.
                if product_id not in sent:
                    sent[product_id] = self._decided.take(product_id, self._settings.batch_max)
                return self._admit_command(run_id, product_id, sent[product_id], group)

            return Ask(str(product_id), build)

        replies = await self._servers.send([asking(product_id, group) for product_id, group in groups.items()])
        for product_id, reply in zip(groups, replies, strict=True):
            if reply is AWAY and product_id in sent:
                # The gate may have received the decisions, or may be back before the leases pass their deadlines.
                self._decided.put_back(sent[product_id])
                self._send_decided_later()
        return replies

    async def _flush(self, asked: list[_Asked]) -> Sequence[Admitted]:
        places: dict[int, list[int]] = {}
        for place, one in enumerate(asked):
            places.setdefault(one.product.product_id, []).append(place)
        # Requests that waited during a load know an older epoch than later requests.
        newest = {
            product_id: max((asked[i].product for i in mine), key=lambda product: product.epoch)
            for product_id, mine in places.items()
        }
        groups = {
            product_id: _Group(newest[product_id], [asked[i] for i in mine]) for product_id, mine in places.items()
        }
        admitted = [_bypass(one.order_id) for one in asked]
        replies = await self._call(groups)
        for (product_id, mine), reply in zip(places.items(), replies, strict=True):
            product = newest[product_id]
            if reply is AWAY:
                continue
            if isinstance(reply, ScriptFailed):
                log.warning("gate.script_failed", product_id=product_id, problem=reply.problem)
                self._failed[product_id] = product.epoch
                self.on_unloaded(product_id)
            elif reply[0] != "ok":
                self.on_unloaded(product_id)
            else:
                answers = _Answers(*reply)
                for place, text in zip(mine, answers.answers, strict=True):
                    admitted[place] = self._answer(text, product, asked[place].order_id, leases=answers.leases)
        return admitted

    def _answer(self, text: str, product: Product, order_id: UUID, *, leases: int) -> Admitted:
        if text == "admitted":
            return Admitted(Admission.ADMITTED, order_id, product.epoch)
        name, _, detail = text.partition(":")
        if name == "leased":
            try:
                return Admitted(admission=Admission.ADMITTED, order_id=UUID(detail), epoch=product.epoch)
            except ValueError:
                # No process of ours wrote this value; the reconciliation finds it too.
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

    def _admit_command(self, run_id: str, product_id: int, decided: Sequence[Decision], group: _Group) -> Command:
        settings = self._settings
        now = time.time()
        keys = _keys(product_id, "epoch", "run", "stock", "leases", "lease", "keys", "buyers")
        keys.append(f"flashsale:{{{product_id}}}:rate:{int(now // settings.rate_window_s)}")
        keys.append(f"flashsale:{{{product_id}}}:tries:{int(now // SECONDS_PER_MINUTE)}")
        keys += _keys(product_id, "cooling")
        product = group.product
        # All requests are one argument instead of four each, so neither side allocates an object per value.
        ends = [(one.order_id, one.end, one.units) for one in decided]
        requests = [
            (order_id, request.user_id, request.quantity, request.key or "") for _, order_id, request in group.asked
        ]
        arguments = (
            run_id,
            0 if product is None else product.epoch,
            ALLOTMENT_MAX,
            round(settings.lease_s * 1000),
            settings.rate_limit,
            settings.rate_window_s,
            settings.attempts_per_minute,
            0 if product is None else product.limit_per_buyer or 0,
            msgspec.msgpack.encode((ends, requests)),
        )
        return run_script("admit", keys, arguments)


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
