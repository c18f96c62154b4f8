"""Limits of an account's requests, counted by this process, and the RateLimit fields of every limited answer.

The fields are those of draft-ietf-httpapi-ratelimit-headers-10: lists of strings with parameters. A policy allows `q`
requests in `w` seconds; `r` is the rest, and `t` the seconds until the rest grows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from flashsale.http.rates import Rate
from flashsale.usecases.buy import ATTEMPTS, BUYS

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from litestar.connection import ASGIConnection
    from litestar.handlers import BaseRouteHandler

    from flashsale.http.messages import Headers
    from flashsale.settings.edge import LimitSettings
    from flashsale.settings.groups import GateSettings

WINDOW_S = 1

SHOWN_MAX = 10_000
"""Renderings of a limit's fields that a process keeps."""

FIELDS = "flashsale.ratelimit"
"""Name in a scope of the fields that the edge adds to the framework's answer."""


def policy(name: str, limit: int, window_s: int) -> bytes:
    """Return an item of `RateLimit-Policy`."""
    return b'"%b";q=%d;w=%d' % (name.encode("ascii"), limit, window_s)


def service(name: str, left: int, in_s: int) -> bytes:
    """Return an item of `RateLimit`."""
    return b'"%b";r=%d;t=%d' % (name.encode("ascii"), left, in_s)


class Limit:
    """A rate and its fields, of which one never changes."""

    __slots__ = ("_policies", "_rate", "_shown")

    def __init__(self, rate: Rate, *others: tuple[str, int, int]) -> None:
        """Show a rate; `others` are policies that are counted elsewhere, if their limit is not 0."""
        self._rate = rate
        shown = [one for one in ((rate.name, rate.limit, rate.window_s), *others) if one[1]]
        self._policies = b", ".join([policy(*one) for one in shown])
        self._shown: dict[tuple[int, int], bytes] = {}
        """The fields as lines, by what is left and when there is more."""

    def take(self, key: Hashable) -> bytes:
        """Count a request and return the fields of its answer, as lines; none without a limit.

        Raises:
            RateLimited: if it is one too many.
        """
        if not self._rate.limit:
            return b""
        left = self._rate.take(key)
        lines = self._shown.get(left)
        if lines is None:
            if len(self._shown) >= SHOWN_MAX:
                self._shown.clear()
            lines = self._shown[left] = b"".join([b"%b: %b\r\n" % field for field in self._fields(left)])
        return lines

    def headers(self, key: Hashable) -> Headers:
        """Do the same, but return the fields one by one."""
        return self._fields(self._rate.take(key)) if self._rate.limit else []

    def _fields(self, left: tuple[int, int]) -> Headers:
        return [(b"ratelimit-policy", self._policies), (b"ratelimit", service(self._rate.name, *left))]


class Limits:
    """The limits of a process."""

    def __init__(self, settings: LimitSettings, gate: GateSettings) -> None:
        """Start empty. The gate counts buys over all processes, but is not asked about every buy."""
        buys = Rate(BUYS, limit=gate.rate_limit, window_s=gate.rate_window_s)
        self.buys = Limit(buys, (ATTEMPTS, gate.attempts_per_minute, 60))
        self.orders = Limit(Rate("orders", limit=settings.orders, window_s=WINDOW_S))
        self.streams = Limit(Rate("streams", limit=settings.streams, window_s=WINDOW_S))
        self.administration = Limit(Rate("administration", limit=settings.administration, window_s=WINDOW_S))


def limited(name: str) -> Callable[[ASGIConnection[Any, Any, Any, Any], BaseRouteHandler], None]:
    """Make a Litestar guard that counts a request of an account under a limit."""

    def guard(connection: ASGIConnection[Any, Any, Any, Any], _: BaseRouteHandler) -> None:
        state = connection.app.state
        limit: Limit = getattr(state.limits, name)
        count(limit, state.tokens.principal(connection.scope).user_id.int, connection)

    return guard


def count(limit: Limit, key: Hashable, connection: ASGIConnection[Any, Any, Any, Any]) -> None:
    """Count a request that the framework answers, and let the edge add the fields."""
    cast("dict[str, Any]", connection.scope)[FIELDS] = limit.headers(key)
