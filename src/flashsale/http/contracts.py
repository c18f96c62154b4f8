"""Interfaces between the parts of the HTTP server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import asyncio
    import contextvars
    from collections.abc import Callable, Coroutine

    from litestar.types import Receive, Scope, Send

    from flashsale.http.messages import Answer, Request


class App(Protocol):
    """The application that the server serves."""

    def direct(self, request: Request) -> Coroutine[Any, Any, Answer] | None:
        """Return what answers a request without the framework, or None."""
        ...

    async def framework(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, as an ASGI app, a request for which `direct` returned None."""
        ...

    def refused(self, problem: Answer) -> None:
        """Count a refusal of something that was not a valid request."""
        ...


class ServerOfConnections(Protocol):
    """What a connection needs from its server."""

    app: App
    head_bytes_max: int
    body_bytes_max: int
    request_timeout_s: float
    keep_alive_s: float
    buffer: memoryview
    loop: asyncio.AbstractEventLoop
    date: bytes
    draining: bool

    @property
    def refused(self) -> Callable[[Answer], None]:
        """Count a refusal of something that was not a valid request."""
        ...

    def take(self, connection: Any) -> bool:
        """Register a new connection; False if there is no room."""
        ...

    def forget(self, connection: Any) -> None:
        """Remove a closed connection."""
        ...

    def spawn(self, coroutine: Coroutine[Any, Any, None], context: contextvars.Context) -> None:
        """Run a coroutine for a connection."""
        ...


class ConnectionOfExchange(Protocol):
    """What an exchange needs from its connection."""

    def answer(self, answer: Answer) -> None:
        """Answer the request."""
        ...

    def begin_stream(self, head: bytes) -> None:
        """Send the head of an answer that ends with the connection."""
        ...

    async def write(self, body: bytes, *, limited: bool = False) -> None:
        """Send a part of a stream; `limited`: reset the connection if the client reads nothing for too long."""
        ...

    def end_stream(self) -> None:
        """End a stream."""
        ...
