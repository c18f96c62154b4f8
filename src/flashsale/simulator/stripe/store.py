"""Every object of Stripe's dialect, the answer that each idempotency key keeps, and the webhooks still to be sent.

A call gathers what it changes in a `Change`; `Store.commit` writes it as one line of the ledger's file and applies it
in one step. Objects are snapshots that are never changed: a change puts a new one in place of the old.
"""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from flashsale.simulator.ledger import Ledger
from flashsale.simulator.stripe.errors import StripeError, missing

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

API_VERSION = "2026-10-28.endive"
OBJECTS_MAX = 500_000
"""Objects in memory, about 3 KB each; a call that would add to more gets 503."""

Object = dict[str, Any]
Delivery = tuple[str, str]
"""Ids of an event and of the webhook endpoint that it goes to."""


def new_id(prefix: str) -> str:
    """Return an id that nobody can guess."""
    return f"{prefix}_{secrets.token_hex(12)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """What an idempotency key keeps: the first answer, whatever it was."""

    path: str
    fingerprint: str
    status: int
    body: str
    request_id: str
    at: float
    """Unix time."""


@dataclass(slots=True)
class Change:
    """What one call changes: all of it is written, or nothing."""

    store: Store
    request: Object = field(default_factory=lambda: {"id": None, "idempotency_key": None})
    """For the events: the request that caused them."""
    money: list[Object] = field(default_factory=list)
    puts: dict[str, Object] = field(default_factory=dict)
    gone: list[str] = field(default_factory=list)
    events: list[tuple[str, Object]] = field(default_factory=list)
    sent: list[Delivery] = field(default_factory=list)

    def move(self, op: str, key: str, **fields: object) -> None:
        """Move money in the ledger."""
        self.money.append({"op": op, "key": key, **fields})

    def put(self, made: Object, *types: str) -> Object:
        """Write an object and tell of it by events of these types."""
        self.puts[made["id"]] = made
        self.events += [(type_, made) for type_ in types]
        return made

    def get(self, kind: str, id_: str, param: str = "id") -> Object:
        """Return an object as this change sees it.

        Raises:
            StripeError: 404 if there is none.
        """
        found = self.find(id_)
        if found is None or found["object"] != kind:
            raise missing(kind, id_, param)
        return found

    def find(self, id_: str) -> Object | None:
        """Look an object up as this change sees it."""
        return self.puts.get(id_) or self.store.find(id_)


class Store:
    """The objects, by id and by kind; `ledger` holds the money."""

    def __init__(self, path: Path | None, *, key_lifetime_s: float) -> None:
        """Read the ledger's file; a key is forgotten after its lifetime."""
        self._objects: dict[str, Object] = {}
        self._kinds: dict[str, dict[str, None]] = {}
        self._kept: dict[str, Kept] = {}
        self._key_lifetime_s = key_lifetime_s
        self.waiting: dict[Delivery, None] = {}
        """Webhooks that no endpoint took yet."""
        self.ledger = Ledger(path, stripe=self._apply)

    def find(self, id_: str) -> Object | None:
        """Look an object up by its id."""
        return self._objects.get(id_)

    def newest(self, kind: str) -> Iterator[Object]:
        """Iterate over the objects of a kind, the last made first."""
        return (self._objects[id_] for id_ in reversed(list(self._kinds.get(kind, ()))))

    def kept(self, key: str) -> Kept | None:
        """Return what a key keeps, unless it is older than its lifetime."""
        kept = self._kept.get(key)
        return kept if kept is not None and time.time() - kept.at < self._key_lifetime_s else None

    def commit(self, change: Change, *, key: str | None = None, kept: Kept | None = None) -> list[Delivery]:
        """Write a change and, with it, the answer that its key keeps; returns the webhooks to be sent."""
        if len(self._objects) + len(change.puts) > OBJECTS_MAX:
            raise StripeError(503, "The simulator holds no more objects.", type_="api_error")
        sends: list[Delivery] = []
        for type_, about in change.events:
            event = self._event(type_, about, change.request)
            targets = list(self._targets(type_))
            event["pending_webhooks"] = len(targets)
            change.puts[event["id"]] = event
            sends += [(event["id"], target) for target in targets]
        record: dict[str, Any] = {
            "money": change.money,
            "put": list(change.puts.values()),
            "gone": change.gone,
            "send": sends,
            "sent": change.sent,
        }
        if kept is not None and key is not None:
            record["kept"] = [key, kept.path, kept.fingerprint, kept.status, kept.body, kept.request_id, kept.at]
        self.ledger.write_stripe({name: value for name, value in record.items() if value})
        return sends

    def _targets(self, type_: str) -> Iterator[str]:
        for endpoint in self.newest("webhook_endpoint"):
            wanted: Iterable[str] = endpoint["enabled_events"]
            if endpoint["status"] == "enabled" and ("*" in wanted or type_ in wanted):
                yield endpoint["id"]

    def _event(self, type_: str, about: Object, request: Object) -> Object:
        return {
            "id": new_id("evt"),
            "object": "event",
            "api_version": API_VERSION,
            "created": int(time.time()),
            "data": {"object": shown(about)},
            "livemode": False,
            "pending_webhooks": 0,
            "request": request,
            "type": type_,
        }

    def _apply(self, record: dict[str, Any]) -> None:
        """Take over a record; the same code for a change now and for one read from the file."""
        for made in record.get("put", ()):
            self._objects[made["id"]] = made
            self._kinds.setdefault(made["object"], {})[made["id"]] = None
        for id_ in record.get("gone", ()):
            self._kinds[self._objects.pop(id_)["object"]].pop(id_)
        for event, endpoint in record.get("send", ()):
            self.waiting[event, endpoint] = None
        for event, endpoint in record.get("sent", ()):
            self.waiting.pop((event, endpoint), None)
        if "kept" in record:
            key, path, fingerprint, status, body, request_id, at = record["kept"]
            self._kept[key] = Kept(
                path=path, fingerprint=fingerprint, status=status, body=body, request_id=request_id, at=at
            )


def shown(made: Object) -> Object:
    """Return what the outside sees of an object: members that begin with `_` are the simulator's own."""
    return {name: value for name, value in made.items() if not name.startswith("_")}
