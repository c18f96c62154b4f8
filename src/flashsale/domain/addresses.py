"""Addresses to which a webhook may be sent, and the URLs that an endpoint may have."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

from flashsale.domain.errors import InvalidInput

URL_MAX = 2048

_UNICAST = ipaddress.ip_network("2000::/3")
"""The addresses of IPv6 that are given to networks. All else is local, reserved, or stands for an address of IPv4."""

_SPECIAL = tuple(
    ipaddress.ip_network(network)
    for network in (
        "192.0.0.0/24", "192.88.99.0/24", "2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20",
    )
)  # fmt: skip
"""What some versions of Python call global: protocols' own addresses, documentation, and tunnels (Teredo, 6to4), behind
which may be any address of IPv4."""

LOCALHOST = "localhost"


def address_allowed(address: str, *, loopback: bool) -> bool:
    """Say whether a webhook may be sent to an address: a public one, or with `loopback` one of this machine.

    Private, link-local (cloud metadata), shared, multicast, reserved and documentation addresses are refused, and those
    of IPv6 that hold one of IPv4.
    """
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped is not None:
        found = found.ipv4_mapped
    if found.is_loopback:
        return loopback
    if isinstance(found, ipaddress.IPv6Address) and found not in _UNICAST:
        return False
    if any(found.version == network.version and found in network for network in _SPECIAL):
        return False
    return found.is_global and not (found.is_multicast or found.is_reserved or found.is_unspecified)


def check_url(url: str, *, loopback: bool) -> str:
    """Return the URL of an endpoint. What its name resolves to is checked at each delivery, when the socket is made.

    Raises:
        InvalidInput: if it is no https URL, holds a user, a password or a fragment, or names an address that is
            refused. With `loopback` it may be http to this machine.
    """
    if len(url) > URL_MAX or any(not "!" <= character <= "~" for character in url):
        raise InvalidInput(field="url", problem=f"must be at most {URL_MAX} printable ASCII characters without a space")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError as error:
        raise InvalidInput(field="url", problem=f"is no URL: {error}") from error
    if not host or parts.scheme not in {"https", "http"} or port == 0:
        raise InvalidInput(field="url", problem="must be an absolute https URL")
    if "@" in parts.netloc or parts.fragment:
        raise InvalidInput(field="url", problem="must hold no user, password or fragment")
    literal = _literal(host)
    ours = host == LOCALHOST or (literal and address_allowed(host, loopback=True) and not _public(host))
    if literal and not address_allowed(host, loopback=loopback):
        raise InvalidInput(field="url", problem="must not name a private, local or reserved address")
    if parts.scheme == "http" and not (loopback and ours):
        raise InvalidInput(field="url", problem="must be an https URL")
    return url


def _literal(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _public(host: str) -> bool:
    return address_allowed(host, loopback=False)
