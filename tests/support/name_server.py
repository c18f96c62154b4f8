"""A DNS server for the addresses of upstreams: what it answers can be changed at any time."""

from __future__ import annotations

import socket
import struct
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

HEAD = struct.Struct("!HHHHHH")
ANSWER_FLAGS, NO_SUCH_NAME = 0x8180, 3
TYPE_A = 1
TTL_S = 600
"""As Docker's name server says."""


class NameServer:
    """Answers questions for A records."""

    def __init__(self, sock: socket.socket) -> None:
        """Know no name."""
        self._socket = sock
        self.addresses: dict[str, list[str]] = {}
        self.asked: dict[str, int] = {}
        """How often the question for each name was answered."""
        self.turn = threading.Condition()

    def serve(self) -> None:
        """Answer until an empty datagram comes."""
        while received := self._socket.recvfrom(512):
            data, client = received
            if not data:
                return
            name, answer = self._answer(data)
            self._socket.sendto(answer, client)
            with self.turn:
                self.asked[name] = self.asked.get(name, 0) + 1
                self.turn.notify_all()

    def _answer(self, data: bytes) -> tuple[str, bytes]:
        number = HEAD.unpack_from(data)[0]
        labels, at = [], HEAD.size
        while length := data[at]:
            labels.append(data[at + 1 : at + 1 + length].decode())
            at += 1 + length
        question = data[HEAD.size : at + 5]
        name, kind = ".".join(labels), struct.unpack_from("!H", data, at + 1)[0]
        with self.turn:
            known = self.addresses.get(name)
            found = known if known and kind == TYPE_A else []
        flags = ANSWER_FLAGS | (0 if known else NO_SUCH_NAME)
        records = b"".join(
            struct.pack("!HHHIH", 0xC00C, TYPE_A, 1, TTL_S, 4) + socket.inet_aton(address) for address in found
        )
        return name, HEAD.pack(number, flags, 1, len(found), 0, 0) + question + records

    def tell(self, name: str, *addresses: str) -> None:
        """Change the addresses of a name."""
        with self.turn:
            self.addresses[name] = list(addresses)

    def wait_answered(self, name: str, longest_s: float = 10) -> None:
        """Wait until a question for the name was answered."""
        with self.turn:
            assert self.turn.wait_for(lambda: self.asked.get(name, 0), longest_s), name


@contextmanager
def name_server() -> Iterator[tuple[NameServer, int]]:
    """Return a server that runs in a thread, and its port."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        server = NameServer(sock)
        thread = threading.Thread(target=server.serve)
        thread.start()
        try:
            yield server, sock.getsockname()[1]
        finally:
            sock.sendto(b"", sock.getsockname())
            thread.join(10)
