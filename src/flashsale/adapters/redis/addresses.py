"""Where the gate's servers are: reads the forms of URLs that `settings/server_urls.py` accepts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import parse_qsl, unquote, urlencode

from redis.asyncio.connection import Connection, parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from flashsale.settings.server_urls import SENTINEL, SENTINEL_PARAMETERS

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

REDIS_PORT, SENTINEL_PORT = 6379, 26_379


class Host(NamedTuple):
    """A server by its name or IP address, and its port."""

    name: str
    port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """What a URL says."""

    kind: str
    """CLUSTER or SENTINEL; empty for one server."""
    hosts: Sequence[Host]
    """The server, nodes of the cluster, or the Sentinels. Empty: a socket file, which the arguments name."""
    service: str
    """The name under which the Sentinels know the primary."""
    arguments: Mapping[str, Any]
    """Of redis-py's connections to the servers."""
    of_sentinels: Mapping[str, Any]
    """Of the connections to the Sentinels."""


def read_address(url: str) -> Address:
    """Read a URL that passed `check_redis_url`."""
    scheme, _, rest = url.partition("://")
    plain, _, kind = scheme.partition("+")
    if not kind:
        arguments = parse_url(url)
        hosts = [Host(arguments["host"], arguments.get("port", REDIS_PORT))] if "host" in arguments else []
        return Address(kind="", hosts=hosts, service="", arguments=_patient(arguments), of_sentinels={})
    before, _, query = rest.partition("?")
    authority, _, path = before.partition("/")
    user, at, names = authority.rpartition("@")
    hosts = [_host(one, SENTINEL_PORT if kind == SENTINEL else REDIS_PORT) for one in names.split(",")]
    service, _, database = path.partition("/") if kind == SENTINEL else ("", "", path)
    pairs = dict(parse_qsl(query))
    own = {name: pairs.pop(name) for name in SENTINEL_PARAMETERS & pairs.keys()}
    arguments = parse_url(f"{plain}://{user}{at}first/{database}?{urlencode(pairs)}")
    del arguments["host"]
    tls = {name: value for name, value in arguments.items() if name.startswith("ssl_") or name == "connection_class"}
    of_sentinels = tls | {name.removeprefix("sentinel_"): value for name, value in own.items()}
    return Address(
        kind=kind,
        hosts=hosts,
        service=unquote(service),
        arguments=_patient(arguments),
        of_sentinels=_patient(of_sentinels),
    )


def _host(text: str, port: int) -> Host:
    name, _, given = text[1:].partition("]") if text.startswith("[") else text.partition(":")
    return Host(name, int(given.lstrip(":") or port))


def _patient(arguments: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "connection_class": Connection,
        **arguments,
        # One deadline covers a whole call. redis-py would set one for each send, with a task, and for each reply.
        "socket_timeout": None,
        "protocol": 2,
        "retry": Retry(NoBackoff(), 0),
        "decode_responses": True,
    }


def make_connection(
    arguments: Mapping[str, Any], host: Host | None, *, greet: Callable[[Any], Awaitable[None]] | None = None
) -> Any:
    """Make a connection of redis-py, which connects on demand. The URL's scheme decides its class."""
    more: dict[str, Any] = {} if host is None else {"host": host.name, "port": host.port}
    if greet is not None:
        more["redis_connect_func"] = greet
    given = {**arguments, **more}
    return given.pop("connection_class")(**given)


async def ask_once(arguments: Mapping[str, Any], host: Host, *command: str) -> Any:
    """Ask a server one question over a connection of its own, and tell it nothing of this client."""
    connection = make_connection({**arguments, "driver_info": None}, host)
    try:
        await connection.connect()
        await connection.send_command(*command)
        return await connection.read_response()
    finally:
        await connection.disconnect(nowait=True)
