"""A whole answer, rendered: what a direct route gives, and what a refusal is before it is sent."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

if TYPE_CHECKING:
    from litestar.types import Send

Headers = list[tuple[bytes, bytes]]

NOSNIFF = (b"x-content-type-options", b"nosniff")


class Answer(NamedTuple):
    """Status, all headers but the request's id, and body."""

    status: int
    head: bytes
    """Status line and headers as they go over the wire, each with its line end."""
    body: bytes

    @property
    def headers(self) -> Headers:
        """Give the headers one by one."""
        fields = (line.partition(b": ") for line in self.head.split(b"\r\n")[1:-1])
        return [(name, value) for name, _, value in fields]

    async def send(self, send: Send, request_id: bytes) -> None:
        """Answer with it, in one write if nothing stands in the way of that."""
        cycle = getattr(send, "__self__", None)
        if isinstance(cycle, RequestResponseCycle) and _may_write_at_once(cycle):
            # What uvicorn does with the two messages below, which it writes one after the other.
            cycle.response_started = cycle.response_complete = True
            cycle.waiting_for_100_continue = False
            cycle.transport.write(b"%bx-request-id: %b\r\n\r\n%b" % (self.head, request_id, self.body))
            cycle.message_event.set()
            cycle.on_response()
            return
        headers = [*self.headers, (b"x-request-id", request_id)]
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": self.body, "more_body": False})


def _may_write_at_once(cycle: RequestResponseCycle) -> bool:
    """Whether the connection takes bytes and stays, and the answer has all its parts."""
    return (
        cycle.keep_alive
        and not cycle.disconnected
        and not cycle.flow.write_paused
        and not cycle.default_headers
        and cycle.scope["method"] != "HEAD"
    )


def rendered(
    status: int, body: bytes, *headers: tuple[bytes, bytes], media_type: bytes = b"application/json"
) -> Answer:
    """Make an answer of a body and what goes beside its type and length."""
    head = b"%bcontent-type: %b\r\ncontent-length: %d\r\n%b: %b\r\n" % (
        STATUS_LINE[status],
        media_type,
        len(body),
        *NOSNIFF,
    )
    for header in headers:
        head += b"%b: %b\r\n" % header
    return Answer(status, head, body)
