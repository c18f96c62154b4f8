"""Spans of traces, and the header that carries a trace from one process to the next (W3C Trace Context)."""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass, field
from typing import NamedTuple

_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-[!-~]*)?")
_SAMPLED = 0x01
CHARS_MAX = 512
"""Longest header that is read; that of version 00 has 55 characters."""

BELOW_MAX = 64
"""Most finished spans that a span holds; further ones are left out."""


class TraceContext(NamedTuple):
    """A span, as other processes know it."""

    trace_id: int
    """128 bits, not 0."""
    span_id: int
    """64 bits, not 0."""
    sampled: bool
    """Whether the spans of the trace are sent to the collector whatever their outcome."""

    @property
    def traceparent(self) -> str:
        """Return the header."""
        return f"00-{self.trace_id:032x}-{self.span_id:016x}-{int(self.sampled):02x}"


def read_traceparent(text: str) -> TraceContext | None:
    """Read a header; None if it is not valid. A later version may carry more after the flags (section 3.2.4)."""
    found = _TRACEPARENT.fullmatch(text) if len(text) <= CHARS_MAX else None
    if found is None:
        return None
    version, trace_id, span_id, flags, more = found.groups()
    if version == "ff" or (version == "00" and more is not None) or not int(trace_id, 16) or not int(span_id, 16):
        return None
    return TraceContext(int(trace_id, 16), int(span_id, 16), bool(int(flags, 16) & _SAMPLED))


class Origin(NamedTuple):
    """The HTTP request that made an order, for log lines and traces; nothing is decided by it."""

    request_id: str | None = None
    """Its id; None: the order is from before revision 0033."""
    traceparent: str | None = None
    """Its span; None: the process did not trace."""

    @classmethod
    def read(cls, kept: str | None) -> Origin:
        """Read what a row keeps: the id, and after a space the span. An id holds no space."""
        request_id, _, traceparent = (kept or "").partition(" ")
        return cls(request_id or None, traceparent or None)

    @property
    def kept(self) -> str | None:
        """Return what a row keeps."""
        if self.request_id is None or self.traceparent is None:
            return self.request_id
        return f"{self.request_id} {self.traceparent}"

    @property
    def trace_id(self) -> str | None:
        """Return the id of the trace, as collectors show it."""
        context = None if self.traceparent is None else read_traceparent(self.traceparent)
        return None if context is None else f"{context.trace_id:032x}"


NO_ORIGIN = Origin()
"""Stands for a request of which nothing is known."""


class SpanKind(enum.StrEnum):
    """The part that a span plays between two processes."""

    SERVER = "server"
    CLIENT = "client"
    PRODUCER = "producer"
    CONSUMER = "consumer"
    INTERNAL = "internal"


@dataclass(slots=True, kw_only=True, eq=False)
class Span:
    """A piece of work in a trace. It changes until it ends."""

    name: str
    kind: SpanKind
    trace_id: int
    span_id: int
    parent_id: int | None
    sampled: bool
    began_ns: int
    """Since 1970, as all times of spans."""
    ended_ns: int = 0
    links: list[TraceContext] = field(default_factory=list)
    """Spans that belong to this one and are not above it."""
    facts: dict[str, str | int] = field(default_factory=dict)
    """Attributes; no names, addresses or secrets."""
    error: str | None = None
    """What went wrong, in a few words."""
    below: list[Span] = field(default_factory=list)
    """Finished spans below it, until it is known whether they are kept."""

    @property
    def context(self) -> TraceContext:
        """Return what other processes get."""
        return TraceContext(self.trace_id, self.span_id, self.sampled)

    @property
    def failed(self) -> bool:
        """Whether something went wrong in it or below it."""
        return self.error is not None or any(one.error is not None for one in self.below)

    def join(self, parent: TraceContext) -> None:
        """Become a part of another trace, below `parent`, with all spans below; a parent so far becomes a link."""
        if parent.trace_id == self.trace_id:
            return
        if self.parent_id is not None:
            self.links.append(TraceContext(self.trace_id, self.parent_id, self.sampled))
        self.parent_id = parent.span_id
        for one in (self, *self.below):
            one.trace_id, one.sampled = parent.trace_id, parent.sampled

    def hold(self, span: Span) -> None:
        """Keep a finished span below this one, and what is below that."""
        more = [span, *span.below]
        span.below = []
        self.below += more[: max(0, BELOW_MAX - len(self.below))]
