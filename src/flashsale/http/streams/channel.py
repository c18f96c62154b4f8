"""A channel: the newest value of one product or order, and the streams that follow it."""

from __future__ import annotations

import asyncio
import random
import sys
import time
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, cast

import msgspec
import structlog

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator

    from litestar.types import Send
    from litestar.types.asgi_types import HTTPResponseBodyEvent

    from flashsale.domain.traces import TraceContext

log = structlog.get_logger(__name__)

SLICE = 256
"""Number of streams that get a value before the process does other work."""

PAUSE_MAX_S = 0.5
"""Longest pause between two rounds."""

CLOSE_SPREAD_S = 3.0
"""Streams of a stopping process end within this time, so that their clients do not all reconnect at once."""

ENDED = sys.maxsize
"""The version of a stream that has ended."""

_encode = msgspec.json.Encoder().encode


def _body(body: bytes, *, more: bool = True) -> HTTPResponseBodyEvent:
    return {"type": "http.response.body", "body": body, "more_body": more}


@dataclass(frozen=True, slots=True)
class Value:
    """What a stream is sent, and the version that its client has then."""

    version: int
    message: HTTPResponseBodyEvent
    details: bool = False
    """Whether it is the details of what is watched, which have versions of their own."""


COMMENT = _body(b": keep-alive\n\n")
END = Value(ENDED, _body(b"", more=False))
NOTHING, NO_DETAILS = Value(0, _body(b"")), Value(0, _body(b""), details=True)


class Stream:
    """The stream of one client: its `send`, and the versions that were sent last.

    The task that publishes also sends: an ASGI `send` that does not wait is complete after its first step and wakes no
    task. Only a full connection gets a task, which waits and then sends the newest value.
    """

    __slots__ = ("_catching_up", "_channel", "_details", "_ending", "_send", "_version")

    def __init__(self, channel: Channel, version: int, send: Send, *, details: int = ENDED) -> None:
        """Follow a channel; the client has its `version`, and its details up to another; ENDED: it wants no details."""
        self._channel = channel
        self._version = version
        self._details = details
        self._send = send
        self._ending = False
        self._catching_up: asyncio.Task[None] | None = None

    def flush(self) -> None:
        """Send the newest value, unless the client has it, as soon as the connection accepts it."""
        while self._catching_up is None and (due := self._due()) is not None:
            if self._sent_at_once(due.message):
                self._has(due)
            else:
                self._catching_up = asyncio.create_task(self._catch_up())

    def comment(self) -> None:
        """Send a comment to keep the connection open; a full connection needs none."""
        if self._catching_up is None and self._version < ENDED:
            self._sent_at_once(COMMENT)

    def end(self) -> None:
        """End the stream after the newest value."""
        self._ending = True
        self.flush()

    def forget(self) -> None:
        """Stop sending: the client has disconnected."""
        self._has(END)
        if self._catching_up is not None:
            self._catching_up.cancel()

    def _due(self) -> Value | None:
        channel = self._channel
        if (value := channel.value).version > self._version:
            return value
        if (details := channel.details).version > self._details:
            return details
        if (channel.final or self._ending) and self._version < ENDED and self._is_over():
            return END
        return None

    def _is_over(self) -> bool:
        """Whether nothing comes any more: a stream without details ends with a final state."""
        return self._ending or self._channel.over or self._details == ENDED

    def _has(self, sent: Value) -> None:
        if not sent.details:
            self._version = sent.version
        if sent.details or sent is END:
            self._details = sent.version

    def _sent_at_once(self, message: HTTPResponseBodyEvent) -> bool:
        """Send if the connection accepts data at once. The server waits only before a write, so no message is cut."""
        sending = cast("Coroutine[None, None, None]", self._send(message))
        try:
            sending.send(None)
        except StopIteration:
            return True
        sending.close()
        return False

    async def _catch_up(self) -> None:
        try:
            while (due := self._due()) is not None:
                await self._send(due.message)
                self._has(due)
        finally:
            self._catching_up = None


class Channel:
    """The newest value of one product or order, encoded once for all its streams, and details for those that want them.

    A round sends the value to all streams in slices; between two slices the process does other work. If a new value
    comes during a round, the rest of the round sends the new value, and another round follows. So every stream gets its
    turn, however fast values come. After a round of more than one slice, the channel pauses for as long as the round
    used the processor. Continuous rounds therefore leave half of the time to other work, and to clients to read.
    """

    __slots__ = (
        "__weakref__",
        "_commenting",
        "_news",
        "_pausing",
        "_round",
        "_sent",
        "_spoke_s",
        "_worked_s",
        "details",
        "final",
        "over",
        "streams",
        "trace",
        "value",
    )

    def __init__(self) -> None:
        """Start without a value."""
        self.value = NOTHING
        self.details = NO_DETAILS
        self.trace: TraceContext | None = None
        """The span of the order's buy, in a process that traces."""
        self.final = False
        """Whether a stream without details ends with this value."""
        self.over = False
        """Whether every stream ends with it."""
        self.streams: set[Stream] = set()
        self._round: Iterator[Stream] | None = None
        self._pausing = False
        self._worked_s = 0.0
        self._commenting = False
        self._news = 0
        """How often something was published."""
        self._sent = 0
        """How often, when the round began."""
        self._spoke_s = asyncio.get_running_loop().time()

    @property
    def version(self) -> int:
        """The version of the newest value."""
        return self.value.version

    def put(self, version: int, data: dict[str, object], *, final: bool = False, over: bool = False) -> None:
        """Publish a value, unless the channel has this version or a later one."""
        if version <= self.value.version:
            return
        self.value = Value(version, _body(b"id: %d\ndata: %s\n\n" % (version, _encode(data))))
        self.final, self.over = final, over
        self._publish()

    def put_details(self, version: int, event: bytes, data: object) -> None:
        """Publish details as an event without an id, unless the channel has this version or a later one."""
        if version <= self.details.version:
            return
        self.details = Value(version, _body(b"event: %b\ndata: %b\n\n" % (event, _encode(data))), details=True)
        self._publish()

    def _publish(self) -> None:
        self._news += 1
        if self._round is None and not self._pausing:
            self._go_round(commenting=False)

    def end(self) -> None:
        """End every stream, spread over a few seconds; the clients reconnect and get the present value."""
        for stream in self.streams:
            end_soon(stream)

    def keep_alive(self, silence_s: float) -> None:
        """Send every stream a comment if the channel has sent nothing for `silence_s`."""
        silent_s = asyncio.get_running_loop().time() - self._spoke_s
        if self._round is None and not self._pausing and silent_s >= silence_s:
            self._go_round(commenting=True)

    def _go_round(self, *, commenting: bool) -> None:
        self._sent = self._news
        self._commenting = commenting
        self._spoke_s = asyncio.get_running_loop().time()
        self._worked_s = 0.0
        self._round = iter(tuple(self.streams))
        self._slice(self._round)

    def _slice(self, remaining: Iterator[Stream]) -> None:
        began_s = time.thread_time()
        now = tuple(islice(remaining, SLICE))
        for stream in now:
            try:
                stream.flush()
                if self._commenting:
                    stream.comment()
            except Exception:
                log.exception("stream.failed")
                self.streams.discard(stream)
        self._worked_s += time.thread_time() - began_s
        if len(now) == SLICE:
            asyncio.get_running_loop().call_soon(self._slice, remaining)
            return
        self._round = None
        if self._news == self._sent:
            return
        if len(self.streams) > SLICE:
            self._pausing = True
            asyncio.get_running_loop().call_later(min(self._worked_s, PAUSE_MAX_S), self._go_on)
        else:
            self._go_on()

    def _go_on(self) -> None:
        self._pausing = False
        self._go_round(commenting=False)


def end_soon(stream: Stream) -> None:
    """End a stream within `CLOSE_SPREAD_S`, at a moment drawn at random."""
    asyncio.get_running_loop().call_later(random.uniform(0, CLOSE_SPREAD_S), stream.end)  # noqa: S311
