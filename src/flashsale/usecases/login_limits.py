"""Limits of failed logins: per pair of account and address, per account, and per address (ADR 25)."""

from __future__ import annotations

import hashlib
import math
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, NamedTuple, Protocol, TypeVar

if TYPE_CHECKING:
    from flashsale.settings.edge import LoginSettings

V = TypeVar("V")

REMEMBERED_MAX = 20_000
"""Entries of each kind that one process keeps for the time while Redis is down; about 400 bytes each."""


class Source(NamedTuple):
    """The source of a login try: digests of the e-mail address that was typed and of the network address."""

    account: str
    origin: str

    @classmethod
    def of(cls, account: str, origin: str) -> Source:
        """Make a source; no part of the system stores the e-mail address or the network address itself."""
        return cls(_digest(account), _digest(origin))


class Permit(NamedTuple):
    """Whether a login may be tried now."""

    wait_s: float
    """Seconds until the next try; 0: now."""
    known: bool
    """The account logged in from this origin before."""
    refused_s: float = 0.0
    """How long a login without this one's exemption would have to wait."""


class LoginLimits(Protocol):
    """Counts tries. A try is counted before the password is compared, so that concurrent tries are counted too."""

    async def begin(self, source: Source, *, exempt: bool) -> Permit:
        """Count a try; with `exempt`, only the limit per pair of account and origin applies."""
        ...

    async def failed(self, source: Source, *, counted: bool) -> None:
        """Record a wrong password; with `counted`, the limits per account and per origin count it too."""
        ...

    async def passed(self, source: Source) -> None:
        """Delete the count of tries, because the password was right."""
        ...

    async def undone(self, source: Source) -> None:
        """Subtract a try, because the password was not compared."""
        ...


@dataclass(slots=True)
class _Pair:
    tries: int = 0
    next_s: float = 0.0
    seen_s: float = 0.0


@dataclass(slots=True)
class _Count:
    failures: int = 0
    until_s: float = 0.0


@dataclass(slots=True)
class _Newest(Generic[V]):
    """A dictionary of bounded size that drops the least recently used entry."""

    most: int
    entries: OrderedDict[object, V] = field(default_factory=OrderedDict)

    def get(self, key: object) -> V | None:
        return self.entries.get(key)

    def put(self, key: object, value: V) -> None:
        self.entries[key] = value
        self.entries.move_to_end(key)
        if len(self.entries) > self.most:
            self.entries.popitem(last=False)

    def drop(self, key: object) -> None:
        self.entries.pop(key, None)


class LocalLoginLimits:
    """The limits per process, which apply while Redis is down. The same as `scripts/login.lua`."""

    def __init__(self, settings: LoginSettings, *, most: int = REMEMBERED_MAX) -> None:
        """Start empty."""
        self._settings = settings
        self._pairs: _Newest[_Pair] = _Newest(most)
        self._accounts: _Newest[_Count] = _Newest(most)
        self._origins: _Newest[_Count] = _Newest(most)
        self._known: _Newest[float] = _Newest(min(most, settings.known_max))

    async def begin(self, source: Source, *, exempt: bool) -> Permit:
        """Count a try."""
        settings, now = self._settings, time.monotonic()
        logged_in_s = self._known.get(source)
        known = logged_in_s is not None and now - logged_in_s < settings.known_s
        pair = self._pairs.get(source)
        if pair is not None and now - pair.seen_s > settings.forget_s:
            pair = None
        if pair is not None and pair.next_s > now:
            return Permit(pair.next_s - now, known)
        refused_s = 0.0
        if not known:
            origin, account = (
                _current(self._origins.get(source.origin), now),
                _current(self._accounts.get(source.account), now),
            )
            if origin.failures >= settings.origin_failures:
                refused_s = origin.until_s - now
            elif pair is None and account.failures >= settings.account_failures:
                refused_s = settings.stranger_wait_s
            if refused_s and not exempt:
                if origin.failures < settings.origin_failures:
                    self._pairs.put(source, _Pair(0, now + refused_s, now))
                return Permit(refused_s, known=False)
        tries = 1 + (0 if pair is None else pair.tries)
        self._pairs.put(source, _Pair(tries, now + backoff_s(settings, tries), now))
        return Permit(0.0, known, refused_s)

    async def failed(self, source: Source, *, counted: bool) -> None:
        """Count a wrong password."""
        if not counted:
            return
        settings, now = self._settings, time.monotonic()
        for counts, key, length_s in (
            (self._origins, source.origin, settings.origin_window_s),
            (self._accounts, source.account, settings.forget_s),
        ):
            count = _current(counts.get(key), now)
            counts.put(key, _Count(count.failures + 1, count.until_s if count.failures else now + length_s))

    async def passed(self, source: Source) -> None:
        """Forget the tries."""
        self._pairs.drop(source)
        self._known.put(source, time.monotonic())

    async def undone(self, source: Source) -> None:
        """Take a try back."""
        pair = self._pairs.get(source)
        if pair is not None:
            self._pairs.put(source, _Pair(max(0, pair.tries - 1), 0.0, pair.seen_s))


def backoff_s(settings: LoginSettings, tries: int) -> float:
    """Return how long the next try must wait after this number of wrong passwords."""
    beyond = tries - settings.free_tries
    return 0.0 if beyond < 0 else min(settings.first_wait_s * 2.0 ** min(beyond, 60), settings.longest_wait_s)


def whole_s(wait_s: float) -> int:
    """Return a wait in whole seconds, for Retry-After."""
    return max(1, math.ceil(wait_s))


def _current(count: _Count | None, now_s: float) -> _Count:
    return count if count is not None and count.until_s > now_s else _Count()


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()
