"""A trace as a tree: what must hold of every one, and its text."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from tests.support.collector import Got

PATH: Mapping[str, tuple[str, ...]] = {
    "POST /api/order/buy-flash": ("caller",),
    "accept": ("POST /api/order/buy-flash",),
    "process order": ("POST /api/order/buy-flash",),
    "POST /api/order/{order_id}/pay": ("POST /api/order/buy-flash",),
    "provider open_intent": ("POST /api/order/{order_id}/pay",),
    "charge job": ("POST /api/order/buy-flash",),
    "provider charge": ("charge job",),
    "POST /api/webhooks/{provider}": ("POST /api/order/buy-flash",),
    "event job": ("POST /api/order/buy-flash",),
    "provider look_up": ("event job", "intent job"),
    "send webhook": ("POST /api/order/buy-flash",),
    "send e-mail": ("POST /api/order/buy-flash",),
    "stream event": ("POST /api/order/buy-flash",),
}
"""The steps of an order that its buyer pays at the provider: what each is below."""

MORE: Mapping[str, tuple[str, ...]] = {"intent job": ("POST /api/order/buy-flash",)}
"""Steps that there may be, if a webhook takes long."""

BATCH = "accept batch"
LEEWAY_NS = 5_000_000
"""Processes of one machine read one clock, which may be set meanwhile."""


def faults(spans: Sequence[Got], trace_id: str, caller_id: str) -> Iterator[str]:
    """Yield what is wrong with a trace that begins below the span `caller_id` of a client."""
    trace = [one for one in spans if one.trace_id == trace_id]
    by_id = {one.span_id: one for one in trace}
    if len(by_id) != len(trace):
        yield "two spans have one id"
    if len({one.span_id for one in spans}) != len(spans):
        yield "two spans of different traces have one id"
    for one in trace:
        above = by_id.get(one.parent_id)
        if above is None and one.parent_id != caller_id:
            yield f"{one.name}: nothing is above it"
        if one.ended_ns < one.began_ns:
            yield f"{one.name}: ends before it begins"
        if above is not None and one.began_ns < above.began_ns - LEEWAY_NS:
            yield f"{one.name}: begins before {above.name}"
        name = "caller" if above is None else above.name
        if name not in {**PATH, **MORE}.get(one.name, ()):
            yield f"{one.name}: is below {name}"
    yield from (f"{step}: is missing" for step in PATH if step not in {one.name for one in trace})
    yield from _of_batch(spans, trace)


def _of_batch(spans: Sequence[Got], trace: Sequence[Got]) -> Iterator[str]:
    """Batch and buy name each other: the batch is a trace of its own."""
    known = {(one.trace_id, one.span_id): one for one in spans}
    buys = {(one.trace_id, one.span_id) for one in trace if one.name == "POST /api/order/buy-flash"}
    for one in trace:
        if one.name != "accept":
            continue
        batches = [known.get(link) for link in one.links]
        if [batch.name if batch else None for batch in batches] != [BATCH]:
            yield f"accept: links to {batches}"
        elif not buys & set(batches[0].links):
            yield "the batch has no link to the buy"


def text(spans: Sequence[Got], trace_id: str) -> str:
    """Return a trace as an indented list: when each span began, how long it took, which process made it."""
    trace = sorted((one for one in spans if one.trace_id == trace_id), key=lambda one: one.began_ns)
    below = defaultdict(list)
    ids = {one.span_id for one in trace}
    for one in trace:
        below[one.parent_id if one.parent_id in ids else ""].append(one)
    began_ns = trace[0].began_ns
    lines = [f"trace {trace_id}"]

    def add(parent_id: str, depth: int) -> None:
        for one in below[parent_id]:
            at, took = (one.began_ns - began_ns) / 1e6, (one.ended_ns - one.began_ns) / 1e6
            said = " ".join(
                f"{name.removeprefix('flashsale.')}={one.facts[name]}"
                for name in ("flashsale.status", "flashsale.outcome", "flashsale.event", "http.response.status_code")
                if name in one.facts
            )
            links = "".join(f" -> {link[0][:8]}/{link[1][:8]}" for link in one.links)
            failed = "" if one.error is None else f" FAILED: {one.error}"
            lines.append(f"{at:9.1f} ms {took:8.1f} ms  {'  ' * depth}{one.name} [{one.service}] {said}{links}{failed}")
            add(one.span_id, depth + 1)

    add("", 0)
    return "\n".join(lines)
