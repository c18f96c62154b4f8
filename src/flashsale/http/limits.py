"""Limits of an account's requests other than buys, and the RateLimit fields of every limited answer.

The fields are those of draft-ietf-httpapi-ratelimit-headers-10: lists of strings with parameters. A policy allows `q`
requests in `w` seconds; `r` is the rest, and `t` the seconds until the rest grows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from flashsale.usecases.rates import Rate

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from litestar.connection import ASGIConnection
    from litestar.handlers import BaseRouteHandler

    from flashsale.http.messages import Headers
    from flashsale.settings.groups import GateSettings, LimitSettings

WINDOW_S = 1

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

    __slots__ = ("_line", "_policies", "rate")

    def __init__(self, rate: Rate, *others: tuple[str, int, int]) -> None:
        """Show a rate; `others` are policies that are counted elsewhere, if their limit is not 0."""
        self.rate = rate
        shown = [one for one in ((rate.name, rate.limit, rate.window_s), *others) if one[1]]
        self._policies = b", ".join([policy(*one) for one in shown])
        self._line = b'ratelimit-policy: %b\r\nratelimit: "%b";r=%%d;t=%%d\r\n' % (
            self._policies,
            rate.name.encode("ascii"),
        )

    def lines(self, key: Hashable) -> bytes:
        """Return the fields of an answer to a request that was counted, as lines; none without a limit."""
        return self._line % self.rate.left(key) if self.rate.limit else b""

    def take(self, key: Hashable) -> bytes:
        """Count a request and give the fields of its answer; `RateLimited` if it is one too many."""
        self.rate.check(key)
        return self.lines(key)

    def headers(self, key: Hashable) -> Headers:
        """Return the fields one by one."""
        if not self.rate.limit:
            return []
        return [(b"ratelimit-policy", self._policies), (b"ratelimit", service(self.rate.name, *self.rate.left(key)))]


class Limits:
    """The limits of a process."""

    def __init__(self, settings: LimitSettings, gate: GateSettings, buys: Rate) -> None:
        """Wire it; `buys` is the rate that the use case checks."""
        self.buys = Limit(buys, ("buy-attempts", gate.attempts_per_minute, 60))
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
    limit.rate.check(key)
    cast("dict[str, Any]", connection.scope)[FIELDS] = limit.headers(key)
