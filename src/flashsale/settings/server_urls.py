"""Checks of the URLs of servers: the accepted forms, and the errors in other forms.

Every client of a server (asyncpg, libpq, redis-py, aiohttp) reads URLs a little differently. A URL that passes here
means the same to all of them. A message repeats only the scheme of a URL and the names of its parameters, because the
rest may be a password or a part of one.
"""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path
from urllib.parse import parse_qsl, quote, unquote

POSTGRES_PARAMETERS = frozenset(
    {
        "host",
        "port",
        "user",
        "password",
        "passfile",
        "sslmode",
        "sslrootcert",
        "sslcert",
        "sslkey",
        "sslcrl",
        "ssl_min_protocol_version",
        "ssl_max_protocol_version",
        "target_session_attrs",
        "application_name",
        "options",
    }
)
"""What both asyncpg and libpq know; asyncpg would send any other to the server as a setting."""

SSL_MODES = frozenset({"disable", "allow", "prefer", "require", "verify-ca", "verify-full"})
WRITING = frozenset({"any", "primary", "read-write"})
"""Values of `target_session_attrs` that a server which takes writes satisfies."""

REDIS_TLS = frozenset({"ssl_cert_reqs", "ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_check_hostname"})
REDIS_PARAMETERS = REDIS_TLS | {"db", "username", "password"}
SENTINEL_PARAMETERS = frozenset({"sentinel_username", "sentinel_password"})
"""Of the Sentinels themselves; the user and password in front of the hosts are those of the servers."""

SENTINEL, CLUSTER = "sentinel", "cluster"
"""What follows the plus sign of a scheme that names several servers."""

FILES = frozenset({"sslrootcert", "sslcert", "sslkey", "sslcrl", "ssl_ca_certs", "ssl_certfile", "ssl_keyfile"})

ENCODE = "write special characters of a user or password as @ %40, / %2F, # %23, ? %3F, % %25, : %3A"

PORT_MAX = 65_535

_SCHEME = re.compile(r"[a-z][a-z0-9+.-]{0,30}")
_NAME = re.compile(r"[a-z_]{1,40}")
_HOST = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9._-]{0,251}[A-Za-z0-9_.])?")
_SERVICE = re.compile(r"[A-Za-z0-9._-]{1,255}")
"""A Sentinel's name of a primary may hold no other characters."""
_BAD_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")


def check_postgres_url(url: str) -> None:
    """Check that a URL names one Postgres database, on one server or on several servers, one of which takes writes.

    Raises:
        ValueError: with what is wrong and what to do.
    """
    example = "postgresql://user:password@host:5432/database"
    _, authority, path, query = _split(url, ("postgresql", "postgres"), example)
    parameters = _parameters(query, POSTGRES_PARAMETERS)
    hosts = authority.rpartition("@")[2]
    if hosts:
        _check_hosts(hosts.split(","), sockets=True)
    ports = parameters.get("port", "5432").split(",")
    if not all(_is_port(port) for port in ports):
        raise ValueError("its port is no number from 1 to 65535")
    if "/" in path[1:]:
        raise ValueError(f"has more than a database after the host; expected {example}")
    if not path[1:]:
        raise ValueError(f"names no database; expected {example}")
    if parameters.get("sslmode", "prefer") not in SSL_MODES:
        raise ValueError(f"its sslmode is none of {', '.join(sorted(SSL_MODES))}")
    if parameters.get("target_session_attrs", "any") not in WRITING:
        raise ValueError("asks for a server without writes by target_session_attrs; write read-write")


def check_redis_url(url: str) -> None:
    """Check that a URL names one server with Redis or Valkey, the Sentinels of several servers, or a cluster.

    Raises:
        ValueError: with what is wrong and what to do.
    """
    example = (
        "redis://:password@host:6379/0, rediss://... for TLS, unix:///path/to/socket?db=0, "
        "redis+sentinel://:password@host:26379,host:26379/name/0 or redis+cluster://:password@host:6379,host:6379"
    )
    several = tuple(f"{plain}+{kind}" for plain in ("redis", "rediss") for kind in (SENTINEL, CLUSTER))
    scheme, authority, path, query = _split(url, ("redis", "rediss", "unix", *several), example)
    kind = scheme.partition("+")[2]
    parameters = _parameters(query, REDIS_PARAMETERS | (SENTINEL_PARAMETERS if kind == SENTINEL else frozenset()))
    hosts = authority.rpartition("@")[2]
    if scheme == "unix":
        if hosts or len(path) < 2:  # noqa: PLR2004 - a slash and a name
            raise ValueError("names no socket; expected unix:///path/to/socket?db=0")
    elif "," in hosts and not kind:
        raise ValueError(f"names several servers; write {scheme}+{SENTINEL}:// or {scheme}+{CLUSTER}://")
    else:
        _check_hosts(hosts.split(","), sockets=False)
        if kind == SENTINEL:
            service, _, path = path.removeprefix("/").partition("/")
            if not _SERVICE.fullmatch(service):
                raise ValueError(f"names no primary as the Sentinels know it; expected {example}")
        _check_database(path.removeprefix("/"), example)
        if kind == CLUSTER and {path.removeprefix("/"), parameters.get("db", "")} - {"", "0"}:
            raise ValueError("names a database other than 0, and a cluster has only that one")
    _check_database(parameters.get("db", "0"), example)
    _check_redis_tls(scheme, parameters)


def _check_database(text: str, example: str) -> None:
    if not (text.isdecimal() or not text):
        raise ValueError(f"has something that is no database number; expected {example}")


def _check_redis_tls(scheme: str, parameters: dict[str, str]) -> None:
    if not scheme.startswith("rediss") and REDIS_TLS & parameters.keys():
        raise ValueError("has TLS parameters without TLS; write rediss instead of redis in its scheme")
    if parameters.get("ssl_cert_reqs", "required") not in {"none", "optional", "required"}:
        raise ValueError("its ssl_cert_reqs is none of none, optional, required")
    if parameters.get("ssl_check_hostname", "true").lower() not in {"true", "false"}:
        raise ValueError("its ssl_check_hostname is neither true nor false")
    if ("ssl_certfile" in parameters) != ("ssl_keyfile" in parameters):
        raise ValueError("has only one of ssl_certfile and ssl_keyfile; a client's certificate needs both")


def with_password(url: str, password: str) -> str:
    """Return a checked URL with the password of its user, which may hold any character.

    Raises:
        ValueError: if it has a password already.
    """
    scheme, _, rest = url.partition("://")
    authority, rest = re.split(r"(?=[/?]|$)", rest, maxsplit=1)
    user, _, hosts = authority.rpartition("@")
    if ":" in user or re.search("[?&]password=", rest):
        raise ValueError("holds a password, and a variable of its own holds another; take one of them away")
    return f"{scheme}://{user}:{quote(password, safe='')}@{hosts}{rest}"


def check_gateway_url(url: str) -> None:
    """Check that a URL is the base of the payment gateway's calls.

    Raises:
        ValueError: with what is wrong and what to do.
    """
    example = "https://gateway.example or http://127.0.0.1:9100"
    _, authority, _, query = _split(url, ("https", "http"), example)
    if "@" in authority:
        raise ValueError("has a user in it; the secret belongs into FLASHSALE_PAYMENTS__GATEWAY_SECRET")
    if query:
        raise ValueError(f"has parameters; expected {example}")
    _check_hosts([authority], sockets=False)


def check_collector_url(url: str) -> None:
    """Check that a URL is the base of a collector of traces.

    Raises:
        ValueError: with what is wrong and what to do.
    """
    example = "https://collector.example or http://127.0.0.1:4318"
    _, authority, _, query = _split(url, ("https", "http"), example)
    if "@" in authority:
        raise ValueError("has a user in it; a secret belongs into OTEL_EXPORTER_OTLP_HEADERS")
    if query:
        raise ValueError(f"has parameters; expected {example}")
    _check_hosts([authority], sockets=False)


def check_mail_url(url: str) -> None:
    """Check that a URL names a mail server; empty names none.

    Raises:
        ValueError: with what is wrong and what to do.
    """
    if not url:
        return
    example = "smtp://user:password@mail.example:587 or smtps://user:password@mail.example"
    _, authority, path, query = _split(url, ("smtp", "smtps"), example)
    user, _, host = authority.rpartition("@")
    if query or path not in {"", "/"}:
        raise ValueError(f"has more than a host; expected {example}")
    if user and not (user.partition(":")[0] and user.partition(":")[2]):
        raise ValueError(f"has a user without a password or the reverse; expected {example}")
    _check_hosts([host], sockets=False)


def hosts_of(url: str) -> str:
    """Return the hosts and ports of a URL that passed a check, or its socket folder; no user and no password."""
    before, _, query = url.partition("://")[2].partition("?")
    hosts = before.partition("/")[0].rpartition("@")[2]
    return hosts or dict(parse_qsl(query)).get("host", "")


def _split(url: str, schemes: tuple[str, ...], example: str) -> tuple[str, str, str, str]:
    """Return scheme, authority, path (with its slash) and query."""
    if url[:1] in {"'", '"', "`"} or url[-1:] in {"'", '"', "`"}:
        raise ValueError("is quoted; take the quotes away")
    if not url.isascii() or not url.isprintable() or " " in url:
        raise ValueError(
            "holds a space or another character that a URL must not hold as it is; write it as %20 and so on"
        )
    scheme, found, rest = url.partition("://")
    if not found:
        raise ValueError(f"is no URL; expected {example}")
    if scheme not in schemes:
        named = f"has the scheme {scheme}" if _SCHEME.fullmatch(scheme) else "has no scheme"
        raise ValueError(f"{named}; expected {example}")
    before, _, query = rest.partition("?")
    authority, slash, path = before.partition("/")
    user = authority.rpartition("@")[0]
    # A special character that is not encoded ends the authority early, or adds an "@".
    if "#" in rest or _BAD_PERCENT.search(rest) or "@" in user or "@" in path or "[" in user or "]" in user:
        raise ValueError(f"cannot be read; {ENCODE}")
    return scheme, authority, slash + path, query


def _parameters(query: str, known: frozenset[str]) -> dict[str, str]:
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=True) if query else []
    except ValueError:
        raise ValueError(f"has something after ? that is no name=value; {ENCODE}") from None
    for name, value in pairs:
        if name not in known:
            what = f"the parameter {name}" if _NAME.fullmatch(name) else "a parameter"
            raise ValueError(f"has {what} after ?, which is not known here; take it away, or {ENCODE}")
        if name == "sslrootcert" and value == "system":
            raise ValueError("its sslrootcert is system, which not every client knows; name the authorities' file")
        if name in FILES and not Path(value).is_file():
            raise ValueError(f"its {name} names a file that is not there")
    if len(dict(pairs)) < len(pairs):
        raise ValueError("has a parameter twice")
    return dict(pairs)


def _check_hosts(hosts: list[str], *, sockets: bool) -> None:
    for one in hosts:
        if one.startswith("["):
            address, bracket, port = one[1:].partition("]")
            try:
                ipaddress.IPv6Address(address.partition("%")[0])
            except ValueError:
                bracket = ""
            if not bracket or (port and not port.startswith(":")):
                raise ValueError("has brackets around something that is no IPv6 address")
            port = port[1:] if port else "1"
        else:
            host, colon, port = one.partition(":")
            if ":" in port:
                raise ValueError(f"cannot be read; write an IPv6 address in brackets, and {ENCODE}")
            if not (_HOST.fullmatch(host) or (sockets and unquote(host).startswith("/"))):
                raise ValueError("names no host" if not host else f"has a host that is no name; {ENCODE}")
            port = port if colon else "1"
        if not _is_port(port):
            raise ValueError(f"its port is no number from 1 to {PORT_MAX}; {ENCODE}")


def _is_port(text: str) -> bool:
    return text.isdecimal() and 0 < int(text) <= PORT_MAX
