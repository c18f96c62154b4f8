"""Divides a ledger by the orders that a restored database knows."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from flashsale.domain.ledgers import Charged, GivenBack, Split
from flashsale.simulator.ledger import STRIPE, Entry, Ledger, derived_id

if TYPE_CHECKING:
    from collections.abc import Container, Iterator
    from pathlib import Path

INTENT = re.compile(r"pi_[0-9A-Za-z]+")
"""The id of an intent in a record of Stripe's dialect."""


def split_ledger(path: Path, known: Container[str]) -> Split:
    """Divide a ledger. A last line without an end is left out: no caller got an answer for it.

    Raises:
        ValueError: if the file contains another line that cannot be read.
    """
    ledger = Ledger(None)
    lines = [line for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]
    try:
        records = [json.loads(line) for line in lines]
        for record in records:
            ledger.replay(record)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is damaged: {error!r}") from None
    lost = {entry.key for entry in ledger if _order_of(entry) not in known}
    kept: list[str] = []
    after: list[str] = []
    for line, record in zip(lines, records, strict=True):
        (kept if lost.isdisjoint(_keys(record, line)) else after).append(line)
    taken = [entry for entry in ledger if entry.captures]
    here = [entry for entry in taken if entry.key not in lost]
    return Split(
        kept=kept,
        after=after,
        charged=[one for entry in taken if entry.key in lost and (one := _charged(entry)).amount_minor],
        paid=[_order_of(entry) for entry in here],
        given_back=[one for entry in here for one in _given_back(entry)],
    )


def _order_of(entry: Entry) -> str:
    """Return the order of an entry: an intent names it, and the keys of charges begin with it."""
    return entry.order_id or "" if entry.intent else entry.key.partition(":")[0]


def _keys(record: dict[str, Any], line: str) -> set[str]:
    return set(INTENT.findall(line)) if record["op"] == STRIPE else {record["key"]}


def _charged(entry: Entry) -> Charged:
    amount_minor = entry.amount_minor * entry.captures - entry.refunded_minor
    return Charged(_order_of(entry), amount_minor, entry.currency, entry.charge_id)


def _given_back(entry: Entry) -> Iterator[GivenBack]:
    for key, amount_minor in (entry.refunds or {}).items():
        reference = key if entry.intent else derived_id("re", f"{entry.key} {key}")
        yield GivenBack(_order_of(entry), key, reference, amount_minor, entry.currency)
