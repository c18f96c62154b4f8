"""What RFC 9112 makes of the bytes that a client sends, decided without the server: by h11, and by stricter rules.

h11 takes more than the RFC does in some places; each rule in `RULES` says where, with the section that asks for it.
`CHOICES` are refusals that the RFC leaves to a server and that this one makes.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field

import h11

TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
LINE = re.compile(rb"(" + TOKEN + rb") ([!-~]+) HTTP/([0-9])\.([0-9])")
FIELD = re.compile(rb"(" + TOKEN + rb"):[ \t]*((?:[!-~\x80-\xff](?:[ \t!-~\x80-\xff]*[!-~\x80-\xff])?)?)[ \t]*")
REG_NAME = re.compile(rb"(?:[A-Za-z0-9._~!$&'()*+,;=-]|%[0-9A-Fa-f]{2})*")
ABSOLUTE = re.compile(rb"(?i:https?)://([^/?]*)(.*)")
QUOTED = rb'"(?:[\t !#-\[\]-~\x80-\xff]|\\[\t !-~\x80-\xff])*"'
CHUNK = re.compile(rb"([0-9A-Fa-f]+)(?:;" + TOKEN + rb"(?:=(?:" + TOKEN + rb"|" + QUOTED + rb"))?)*\r\n")
METHODS = frozenset(b"GET HEAD POST PUT DELETE OPTIONS TRACE PATCH QUERY PROPFIND SEARCH M-SEARCH SOURCE".split())
SINGLE = (b"authorization", b"idempotency-key", b"origin")
FRAMING = {b"content-length", b"transfer-encoding"}
SIZE_MAX = 2**64


@dataclass(slots=True)
class Verdict:
    """What a server must make of all that a client sends before it ends."""

    served: list[tuple[bytes, bytes, bytes]] = field(default_factory=list)
    """Method, target and body of each request that is answered, in order."""
    end: str = "open"
    """After them: `open` (nothing more is answered), `closed` (by the last one), `refused`, `unfinished` (either)."""
    rule: str = ""
    """Why it is refused."""
    head_only: bool = False
    """Whether what is refused is a HEAD: its answer has no content either (RFC 9110, 9.3.2)."""


class Refused(Exception):
    """One of the rules does not hold."""


def judge(sent: bytes, *, head_max: int, body_max: int) -> Verdict:
    """Say what is answered, and how it ends."""
    verdict = Verdict()
    while True:
        start = sent
        while sent.startswith(b"\r\n"):
            sent = sent[2:]
        # What comes after the limit is not looked at.
        is_head = sent.startswith(b"HEAD ") and len(start) - len(sent) + 5 <= head_max
        end = sent.find(b"\r\n\r\n")
        if end < 0:
            too_long = len(start) > head_max
            verdict.head_only = is_head
            verdict.end, verdict.rule = ("refused", "5: the head is too long") if too_long else ("unfinished", "")
            return verdict if start else _open(verdict)
        try:
            _hold(len(start) - len(sent) + end + 4 <= head_max, "5: the head is too long")
            one = _request(sent, sent[:end], body_max)
        except Refused as refused:
            verdict.end, verdict.rule = "refused", str(refused)
            verdict.head_only = is_head
            return verdict
        if one is None:
            verdict.end = "unfinished"
            verdict.head_only = is_head
            return verdict
        method, target, body, keep, sent = one
        if len(start) - len(sent) - len(body) > head_max:
            verdict.end, verdict.rule = "refused", "7.1.1: too much around the chunks"
            return verdict
        verdict.served.append((method, target, body))
        if not keep:
            verdict.end = "closed"
            return verdict


def _open(verdict: Verdict) -> Verdict:
    verdict.end = "open"
    return verdict


def _request(sent: bytes, head: bytes, body_max: int) -> tuple[bytes, bytes, bytes, bool, bytes] | None:
    """Return method, target, body, whether the connection goes on and what follows; None if the body is not all there."""
    first, *lines = head.split(b"\r\n")
    line = _match(LINE, first, "3: a request line is a method, a target and a version, with single spaces")
    method, target, major, minor = line.groups()
    # CHOICES: RFC 9110, 9.1 and 2.5 would have 501 and a later minor version as 1.1; nobody sends either here.
    _hold(major == b"1" and minor in {b"0", b"1"}, "choice: versions 1.0 and 1.1")
    _hold(method in METHODS, "choice: methods that the parser knows")
    fields = []
    for one in lines:
        found = _match(FIELD, one, "5, 2.2: a field is a token, a colon and a value without controls, on one line")
        fields.append((found[1].lower(), found[2]))
    names = [name for name, _ in fields]
    _hold(not any(names.count(name) > 1 for name in SINGLE), "RFC 9110, 5.3: a field that has one value comes once")
    _check_target(method, target)
    _check_host([value for name, value in fields if name == b"host"], minor)
    lengths = [value for name, value in fields if name == b"content-length"]
    # The parser takes a tab after the coding for a part of it; 5.6.3 of RFC 9110 has it as white space.
    tabs = any(re.match(rb"(?i)transfer-encoding:[ \t]*[^ \t].*\t", one) for one in lines)
    _hold(not tabs, "choice: no tab after a coding")
    codings = [value.lower() for name, value in fields if name == b"transfer-encoding"]
    # 6.3 lets a server take a list of equal lengths; 6.1 lets it take a length with a coding, closing after it.
    _hold(len(lengths) <= 1, "choice: one Content-Length")
    _hold(not lengths or re.fullmatch(rb"[0-9]+", lengths[0]) is not None, "6.3: a length is digits")
    _hold(not (lengths and codings), "choice: no length with a coding")
    _hold(codings in ([], [b"chunked"]), "choice, 6.1: no other coding than chunked, once")
    _hold(not (codings and minor == b"0"), "6.1: no coding in HTTP/1.0")
    _hold(not lengths or int(lengths[0]) <= body_max, "RFC 9110, 15.5.14: the body is too long")
    # The parser takes Proxy-Connection for Connection; a server may close when it likes.
    named = [value for name, value in fields if name in {b"connection", b"proxy-connection"}]
    options = {option.strip().lower() for value in named for option in value.split(b",")}
    keep = b"close" not in options and (minor == b"1" or b"keep-alive" in options)
    size = len(head) + 4
    if codings:
        body, end = _chunks(sent, size, body_max)
    else:
        end = size + int(lengths[0] if lengths else 0)
        body = sent[size:end] if end <= len(sent) else None
    if body is None:
        return None
    _agree(sent[:end], body)
    return method, target, body, keep, sent[end:]


def _check_target(method: bytes, target: bytes) -> None:
    _hold(method != b"CONNECT", "choice: no tunnels")
    if target == b"*":
        _hold(method == b"OPTIONS", "3.2.4: a star is for OPTIONS alone")
        return
    _hold(b"#" not in target, "3.2: a target has no fragment")
    if not target.startswith(b"/"):
        absolute = _match(ABSOLUTE, target, "3.2: a target is a path, or an absolute URI of http or https")
        _hold(re.fullmatch(rb"(?::[0-9]*)?", absolute[1]) is None, "RFC 9110, 4.2.1: a URI has a host")
        _check_host([absolute[1]], b"1")


def _check_host(hosts: list[bytes], minor: bytes) -> None:
    _hold(len(hosts) == 1 or (not hosts and minor == b"0"), "3.2: one Host")
    for host in hosts:
        literal = re.fullmatch(rb"\[(.*)\](?::[0-9]*)?", host)
        if literal is not None:
            try:
                ipaddress.IPv6Address(literal[1].decode("ascii"))
            except ValueError:
                raise Refused("3.2: a Host is valid") from None
            _hold(b"%" not in literal[1], "3.2: a Host is valid")
        else:
            name = re.fullmatch(rb"([^:]*)(?::[0-9]*)?", host)
            _hold(name is not None and REG_NAME.fullmatch(name[1]) is not None, "3.2: a Host is valid")


def _chunks(sent: bytes, place: int, body_max: int) -> tuple[bytes | None, int]:
    """Return a chunked body and where it ends; None if it does not."""
    body = b""
    while True:
        end = sent.find(b"\n", place)
        if end < 0:
            # What is here may be wrong already; a server may say so before the line ends.
            return None, place
        chunk = _match(CHUNK, sent[place : end + 1], "7.1: a chunk is a size in hex, extensions and CRLF")
        size = int(chunk[1], 16)
        _hold(size < SIZE_MAX, "7.1: a size that no number holds")
        place = end + 1
        if not size:
            break
        _hold(len(body) + min(size, len(sent) - place) <= body_max, "RFC 9110, 15.5.14: the body is too long")
        body += sent[place : place + size]
        place += size
        if not b"\r\n".startswith(sent[place : place + 2]):
            raise Refused("7.1: CRLF ends a chunk")
        if len(sent) < place + 2:
            return None, place
        place += 2
    while True:
        end = sent.find(b"\r\n", place)
        if end < 0:
            return None, place
        if end == place:
            return body, place + 2
        found = _match(FIELD, sent[place:end], "7.1.2: a trailer is a field")
        _hold(found[1].lower() not in FRAMING, "choice, RFC 9110, 6.5.1: a trailer frames nothing")
        place = end + 2


def _agree(sent: bytes, body: bytes) -> None:
    """Let h11 read the same request: it must find this body, and nothing after it."""
    reader = h11.Connection(h11.SERVER)
    reader.receive_data(sent)
    parts = []
    try:
        while not isinstance(event := reader.next_event(), h11.EndOfMessage):
            _hold(event is not h11.NEED_DATA, "h11: the request is not all there")
            if isinstance(event, h11.Data):
                parts.append(bytes(event.data))
    except h11.RemoteProtocolError as error:
        raise Refused(f"h11: {error}") from error
    assert b"".join(parts) == body, "the oracle and h11 differ"
    assert reader.trailing_data[0] == b"", "the oracle and h11 differ"


def _hold(condition: object, rule: str) -> None:
    if not condition:
        raise Refused(rule)


def _match(pattern: re.Pattern[bytes], text: bytes, rule: str) -> re.Match[bytes]:
    found = pattern.fullmatch(text)
    if found is None:
        raise Refused(rule)
    return found
