"""Connect to the one of several hosts that takes writes, though another one does not even refuse.

A machine without power answers nothing. asyncpg tries the hosts of a URL one after the other within one time-out, so
such a machine would use up the time of the hosts behind it. Here each host has its share.
"""

from __future__ import annotations

import asyncio
from typing import Any, TypeVar

import asyncpg

Kind = TypeVar("Kind", bound="asyncpg.Connection[asyncpg.Record]")

REFUSED = (asyncpg.TooManyConnectionsError, asyncpg.InvalidAuthorizationSpecificationError)
"""A host is there and does not take this client: it is full, or `pg_hba.conf` or the password is against it."""

ELSEWHERE = (OSError, asyncpg.CannotConnectNowError, asyncpg.TargetServerAttributeNotMatched, *REFUSED)
"""Failures after which the next host may serve."""


def urls_of_hosts(url: str) -> list[str]:
    """Return a URL for each host. A URL that names hosts or ports after its question mark stays as it is."""
    scheme, _, rest = url.partition("://")
    authority, slash, path = rest.partition("/")
    query = path.partition("?")[2]
    if "," not in authority or any(parameter.startswith(("host=", "port=")) for parameter in query.split("&")):
        return [url]
    user, at, hosts = authority.rpartition("@")
    return [f"{scheme}://{user}{at}{host}{slash}{path}" for host in hosts.split(",")]


class Hosts:
    """The hosts of a URL, the one that served last first."""

    def __init__(self, url: str) -> None:
        """Begin with the first host that the URL names."""
        self._urls = urls_of_hosts(url)

    async def connect(self, kind: type[Kind], *, within_s: float, **arguments: Any) -> Kind:
        """Connect to the first host that serves, by this class; `arguments` are further ones of `asyncpg.connect`.

        Raises:
            OSError, asyncpg.PostgresError: of a host that refused, or else of the last one, if none serves.
        """
        loop = asyncio.get_running_loop()
        ends_at = loop.time() + within_s
        failure: BaseException | None = None
        for place, url in enumerate(self._urls):
            share_s = (ends_at - loop.time()) / (len(self._urls) - place)
            try:
                connection: Kind = await asyncpg.connect(url, timeout=share_s, connection_class=kind, **arguments)
            except ELSEWHERE as error:
                failure = failure if isinstance(failure, REFUSED) else error
                continue
            self._urls = [url, *(other for other in self._urls if other != url)]
            return connection
        if failure is None:
            raise AssertionError
        raise failure
