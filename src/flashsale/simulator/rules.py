"""The simulated gateway's rules, without HTTP: what is drawn for a key or a call, and how a key's state may change.

A key is charged at one instant, the end of its latency, even if no client waits for the answer any more. Outcome and
latency of a key follow from the seed and the key; the faults of a call follow from the seed and the order of calls.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import random
import time
from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

from flashsale.simulator.faults import Behaviour, Fault, RefusedError, checked
from flashsale.simulator.ledger import ChargeStatus, Entry, Ledger

RUNNING_MAX = 10_000
"""Charges in flight; more are answered 503."""
KEYS_MAX = 2_000_000
"""Keys in the ledger, about 500 bytes of memory each; more are answered 503."""
DECLINE_CODES = ("card_declined", "insufficient_funds", "expired_card", "do_not_honour")


# --- what is drawn --------------------------------------------------------------------------------------------------


def draw_uniform(seed: int, purpose: str, key: str) -> float:
    """Draw from the open interval (0, 1), the same for the same arguments in every process."""
    digest = hashlib.blake2b(f"{seed}:{purpose}:{key}".encode(), digest_size=8).digest()
    return ((int.from_bytes(digest, "big") >> 11) + 0.5) / 2**53


def sample_latency_s(seed: int, key: str, *, mean_s: float, sigma: float) -> float:
    """Draw a key's log-normal latency; mu = ln(mean) - sigma^2 / 2, and the normal draw is Box and Muller's (1958)."""
    if mean_s == 0:
        return 0.0
    radius = math.sqrt(-2 * math.log(draw_uniform(seed, "latency-radius", key)))
    normal = radius * math.cos(math.tau * draw_uniform(seed, "latency-angle", key))
    return math.exp(math.log(mean_s) - sigma**2 / 2 + sigma * normal)


def sample_decline(seed: int, key: str, *, rate: float) -> str | None:
    """Draw whether a key is declined; returns the decline code, or None for a capture."""
    if draw_uniform(seed, "decline", key) >= rate:
        return None
    return DECLINE_CODES[int(draw_uniform(seed, "code", key) * len(DECLINE_CODES))]


# --- the rules ------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Running:
    """A charge in flight."""

    timer: asyncio.TimerHandle
    done: asyncio.Event


class Simulator:
    """The gateway's rules over its ledger. Every change of state is one step of the event loop."""

    def __init__(self, ledger: Ledger, behaviour: Behaviour, *, seed: int) -> None:
        """Begin with what the ledger holds; its pending keys are charged when they are asked for again."""
        self.ledger = ledger
        self.behaviour = behaviour
        self.seed = seed
        self.faults: Counter[Fault] = Counter()
        self._random = random.Random(seed)  # noqa: S311 - reproducible on purpose
        self._running: dict[str, _Running] = {}
        self._outage_until = time.monotonic() + behaviour.outage_s

    def change(self, **changes: Any) -> None:
        """Change what is named of the behaviour; the rest stays.

        Raises:
            RefusedError: 400 if it can not be.
        """
        self.behaviour = checked(replace(self.behaviour, **changes))
        if "outage_s" in changes:
            self._outage_until = time.monotonic() + self.behaviour.outage_s

    @property
    def outage_s(self) -> float:
        """How long it will still answer nobody."""
        return max(0.0, self._outage_until - time.monotonic())

    def draw_fault(self) -> Fault | None:
        """Decide what goes wrong with the next charge call."""
        fault = self.behaviour.fault(self._random.random())
        if fault is not None:
            self.faults[fault] += 1
        return fault

    def see(self, key: str, *, amount_minor: int, currency: str, reference: str | None) -> Entry:
        """Take note of a charge request; the first one says what is charged under its key.

        Raises:
            RefusedError: 422 if the key belongs to another charge; 503 if the ledger is full.
        """
        entry = self.ledger.get(key)
        if entry is None:
            if len(self.ledger) >= KEYS_MAX:
                raise RefusedError(503, "ledger_full", "The ledger takes no more keys.")
            entry = self.ledger.open(key, amount_minor=amount_minor, currency=currency, reference=reference)
        elif entry.currency and (entry.amount_minor, entry.currency, entry.reference) != (
            amount_minor,
            currency,
            reference,
        ):
            raise RefusedError(422, "key_reused", "This key belongs to a charge with another body.")
        entry.requests += 1
        return entry

    async def settle(self, entry: Entry, *, slowly: bool = False) -> None:
        """Wait until a key is decided and the ledger has it; begins its charge if it has not begun.

        `slowly` begins it after `slow_s`. A caller that leaves stops nothing.

        Raises:
            RefusedError: 503 if too many charges are in flight.
        """
        if entry.status is ChargeStatus.PENDING:
            running = self._running.get(entry.key) or self._begin(entry, self.behaviour.slow_s if slowly else 0.0)
            await running.done.wait()
        await self.ledger.flushed()

    async def cancel(self, key: str) -> Entry:
        """Cancel a key that is pending or was never seen; one that is decided stays as it is."""
        entry = self.ledger.get(key)
        if entry is None and len(self.ledger) >= KEYS_MAX:
            raise RefusedError(503, "ledger_full", "The ledger takes no more keys.")
        if entry is None or entry.status is ChargeStatus.PENDING:
            entry = self.ledger.cancel(key)
            running = self._running.pop(key, None)
            if running is not None:
                running.timer.cancel()
                running.done.set()
        await self.ledger.flushed()
        return entry

    async def refund(self, key: str, refund_key: str, amount_minor: int) -> None:
        """Give back a part of what was captured, once per refund key.

        Raises:
            RefusedError: 404 for a key never seen; 409 if nothing was captured, or less than would then be refunded;
                422 if the refund key belongs to another amount.
        """
        entry = self.ledger.get(key)
        if entry is None:
            raise RefusedError(404, "no_such_charge", "This key was never seen.")
        if entry.status is not ChargeStatus.CAPTURED:
            raise RefusedError(409, "not_captured", f"This charge is {entry.status}.")
        before = (entry.refunds or {}).get(refund_key)
        if before is None:
            if entry.refunded_minor + amount_minor > entry.amount_minor:
                raise RefusedError(409, "refund_exceeds_capture", "More would be refunded than was captured.")
            self.ledger.refund(entry, refund_key, amount_minor)
        elif before != amount_minor:
            raise RefusedError(422, "key_reused", "This key belongs to a refund of another amount.")
        await self.ledger.flushed()

    def stop(self) -> None:
        """Let go of the charges in flight; nothing is captured for them."""
        for running in self._running.values():
            running.timer.cancel()
            running.done.set()
        self._running.clear()

    def summary(self) -> dict[str, Any]:
        """Count the ledger; money in minor units by currency."""
        statuses: Counter[str] = Counter({status.value: 0 for status in ChargeStatus})
        captured: Counter[str] = Counter()
        refunded: Counter[str] = Counter()
        captures = 0
        for entry in self.ledger:
            statuses[entry.status.value] += 1
            captures += entry.captures
            if entry.captures:
                captured[entry.currency] += entry.captures * entry.amount_minor
                refunded[entry.currency] += entry.refunded_minor
        return {
            "seed": self.seed,
            "keys": len(self.ledger),
            **statuses,
            "captures": captures,
            "capturedMinor": captured,
            "refundedMinor": refunded,
            "running": len(self._running),
            "faults": {fault.value: self.faults[fault] for fault in Fault},
        }

    def _begin(self, entry: Entry, delay_s: float) -> _Running:
        if len(self._running) >= RUNNING_MAX:
            raise RefusedError(503, "too_many_charges", "Too many charges are in flight.")
        behaviour = self.behaviour
        latency_s = sample_latency_s(
            self.seed, entry.key, mean_s=behaviour.latency_mean_s, sigma=behaviour.latency_sigma
        )
        decline_code = sample_decline(self.seed, entry.key, rate=behaviour.decline_rate)
        timer = asyncio.get_running_loop().call_later(delay_s + latency_s, self._decide, entry, decline_code)
        running = self._running[entry.key] = _Running(timer, asyncio.Event())
        return running

    def _decide(self, entry: Entry, decline_code: str | None) -> None:
        """Charge: the one instant at which money moves. A cancelled key's timer never gets here."""
        if decline_code is None:
            self.ledger.capture(entry)
        else:
            self.ledger.decline(entry, decline_code)
        self._running.pop(entry.key).done.set()
