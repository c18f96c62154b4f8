"""One case: sent in several ways, its answers held against the oracle's and against each other."""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
import socket
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import unquote_to_bytes

from tests.fuzz.grammar import Grammar, cuts
from tests.fuzz.oracle import ABSOLUTE, judge
from tests.fuzz.target import BODY_MAX, HEAD_MAX, echo

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.fuzz.oracle import Verdict
    from tests.fuzz.target import Echo

PATIENCE_S = 8.0
OLD = re.compile(rb"[A-Z-]+ [^ \r\n]* *\r?\n")
"""A request line without a version."""
HONEST = b"GET /honest%d HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Answered:
    """One answer."""

    status: int
    echo: bytes
    edge: bytes
    """What the app says that nginx called the request."""
    edge_answer: bytes
    """What nginx called it."""
    close: bool
    size: int


class Unreadable(Exception):
    """What came is no sequence of answers."""


def read(came: bytes, heads: Sequence[bool]) -> list[Answered]:
    """Read answers one after the other; `heads` says which are to a HEAD and have no content."""
    answers = []
    while came:
        head, blank, rest = came.partition(b"\r\n\r\n")
        line = re.fullmatch(rb"HTTP/1\.1 ([0-9]{3}) [ -~]*", head.split(b"\r\n")[0])
        if not blank or line is None:
            raise Unreadable(came[:120])
        status = int(line[1])
        if status < 200:
            came = rest
            continue
        fields = {name.lower(): value for name, _, value in (one.partition(b": ") for one in head.split(b"\r\n")[1:])}
        named = fields.get(b"x-echo", b"")
        size = 0 if len(answers) < len(heads) and heads[len(answers)] else int(fields.get(b"content-length", b"0"))
        if status >= 400 and not rest and len(answers) == len(heads) - 1:
            size = 0
        if len(rest) < size:
            raise Unreadable(came[:120])
        close = fields.get(b"connection") == b"close"
        if b"date" not in fields:
            raise Unreadable(b"no date: " + head)
        answers.append(
            Answered(status, named, fields.get(b"x-edge", b""), fields.get(b"x-edge-answer", b""), close, size)
        )
        came = rest[size:]
    return answers


async def talk(port: int, pieces: list[bytes], *, turns: int = 2) -> bytes:
    """Send piece after piece, each in a read of its own, end, and give what comes until the other side ends."""
    loop = asyncio.get_running_loop()
    with socket.socket() as sock:
        sock.setblocking(False)
        await loop.sock_connect(sock, ("127.0.0.1", port))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            for piece in pieces:
                await loop.sock_sendall(sock, piece)
                for _ in range(turns):
                    await asyncio.sleep(0)
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_WR)
        came = b""
        async with asyncio.timeout(PATIENCE_S):
            with contextlib.suppress(ConnectionResetError):
                while data := await loop.sock_recv(sock, 65_536):
                    came += data
        return came


@dataclass(slots=True)
class Tally:
    """What was tried and what went wrong."""

    cases: int = 0
    requests: int = 0
    accepted: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    behind: int = 0
    """Cases through nginx."""
    behind_answers: Counter[int] = field(default_factory=Counter)
    differences: dict[str, list[tuple[str, str, bytes]]] = field(default_factory=dict)
    """By what differs: the kind of the case, what was said, and what was sent."""

    def differs(self, what: str, kind: str, said: str, sent: bytes) -> None:
        """Note a difference."""
        self.differences.setdefault(what, []).append((kind, said, sent))


class Fuzz:
    """Cases from one seed."""

    def __init__(self, app: Echo, port: int, behind: tuple[int, ...], seed: int) -> None:
        """Send to the app, and to nginx at the ports in `behind`."""
        self.tally = Tally()
        self._app = app
        self._port = port
        self._behind = behind
        self._random = random.Random(seed)
        self._grammar = Grammar(self._random)

    async def step(self) -> None:
        """Try one case."""
        kind, sent = self._grammar.case()
        await self.alone(kind, sent)
        if self._behind and len(sent) < 20_000:
            await self.through_nginx(kind, sent)

    async def alone(self, kind: str, sent: bytes) -> None:
        """Hold the server against the oracle, however the bytes are cut."""
        tally = self.tally
        verdict = judge(sent, head_max=HEAD_MAX, body_max=BODY_MAX)
        tally.cases += 1
        tally.kinds[kind] += 1
        tally.requests += len(verdict.served) + (verdict.end == "refused")
        tally.accepted += len(verdict.served)
        if verdict.end == "refused":
            tally.refused[verdict.rule] += 1
        ways = [[sent], cuts(self._random, sent)]
        if len(sent) < 2_500:
            ways.append([sent[place : place + 1] for place in range(len(sent))])
        first: list[Answered] | None = None
        for pieces in ways:
            served = len(self._app.edges)
            try:
                came = await talk(self._port, pieces)
                answers = read(came, [*(method == b"HEAD" for method, _, _ in verdict.served), verdict.head_only])
            except (Unreadable, TimeoutError) as error:
                tally.differs("answers can not be read", kind, repr(error), sent)
                continue
            wrong = _wrong(verdict, answers)
            if wrong is None and len(self._app.edges) - served != len(verdict.served):
                wrong = f"{len(self._app.edges) - served} requests reached the app"
            if wrong is not None:
                tally.differs("not what the oracle says", kind, f"{wrong}; {len(pieces)} pieces", sent)
            if first is None:
                first = answers
            elif answers != first and verdict.end != "unfinished":
                tally.differs("pieces change the answers", kind, f"{len(pieces)} pieces", sent)
        if self._app.faults:
            tally.differs("logged", kind, "; ".join(self._app.faults), sent)
            self._app.faults.clear()

    async def through_nginx(self, kind: str, sent: bytes) -> None:
        """See that each answer that nginx gives belongs to the request that nginx took it for; to others too."""
        tally = self.tally
        for port in self._behind:
            tally.behind += 1
            served = len(self._app.edges)
            try:
                came = await talk(port, [sent] if self._random.randrange(2) else cuts(self._random, sent))
                # nginx takes HTTP/0.9, whose answers have no heads; and where HEADs are, it says which they are.
                answers = [] if b"HEAD" in sent or OLD.search(sent) else read(came, [])
            except (Unreadable, TimeoutError) as error:
                tally.differs("behind nginx: answers can not be read", kind, repr(error), sent)
                answers = []
            for answer in answers:
                tally.behind_answers[answer.status] += 1
                if answer.edge != answer.edge_answer and answer.echo:
                    tally.differs("behind nginx: the answer of another", kind, repr(answer), sent)
            number = self._random.randrange(10**9) * 10
            came = await talk(port, [HONEST % number])
            if b"\r\nx-echo: GET /honest%d 0 " % number not in came:
                tally.differs("behind nginx: another client's request", kind, repr(came[:200]), sent)
            edges = self._app.edges[served:]
            if b"" in edges or len(set(edges)) != len(edges):
                tally.differs("behind nginx: a request that nginx did not send", kind, repr(edges), sent)
        del self._app.edges[:]


def _wrong(verdict: Verdict, answers: list[Answered]) -> str | None:  # noqa: PLR0911 - one case after the other
    """Say what is wrong with the answers, if anything is."""
    expected = verdict.served
    for (method, target, body), answer in zip(expected, answers, strict=False):
        if answer.status != 200 or answer.echo not in _names(method, target, body):
            return f"{answer} for {method!r} {target!r} with {len(body)} bytes"
    if len(answers) < len(expected):
        return f"{len(answers)} answers for {len(expected)} requests"
    more = answers[len(expected) :]
    if verdict.end == "open" and more:
        return f"{more} for nothing"
    if verdict.end == "closed" and (more or not answers[-1].close):
        return f"goes on after the end: {more}"
    if verdict.end == "refused" and not more:
        return f"not refused: {verdict.rule}"
    if more and (len(more) > 1 or not 400 <= more[0].status < 500 or not more[0].close):
        return f"{more} at the end"
    return None


def _names(method: bytes, target: bytes, body: bytes) -> list[bytes]:
    """Return how the app may name a request: the path is decoded, and HEAD may look like GET."""
    absolute = ABSOLUTE.fullmatch(target)
    if absolute is not None:
        target = absolute[2] if absolute[2].startswith(b"/") else b"/" + absolute[2]
    path, mark, query = target.partition(b"?")
    path = unquote_to_bytes(re.sub(rb"%(?=2[fF])", b"%25", path)).decode("utf-8", "replace").encode()
    target = path + (mark + query if query else b"")
    return [echo(one, target, body) for one in ({method, b"GET"} if method == b"HEAD" else {method})]
