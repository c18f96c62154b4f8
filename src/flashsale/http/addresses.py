"""The address that a request comes from."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from flashsale.http.messages import Request

Address = IPv4Address | IPv6Address

SITE_BITS = 64
"""An IPv6 subscriber has this many leading bits, and chooses the others freely: RFC 6177, RFC 7421."""


class Addresses:
    """Finds the client's address; of X-Forwarded-For it believes only the part that trusted proxies wrote."""

    def __init__(self, trusted_proxies: Iterable[str]) -> None:
        """Keep the networks of the proxies."""
        self._trusted = [ip_network(network, strict=False) for network in trusted_proxies]

    def of(self, request: Request) -> str:
        """Return the client's address (IPv6: its /64 network); empty if the connection has no address."""
        address = self.whole(request)
        if address is None:
            return ""
        return str(IPv6Network((int(address), SITE_BITS), strict=False) if address.version == 6 else address)  # noqa: PLR2004

    def whole(self, request: Request) -> Address | None:
        """Return the client's whole address."""
        address = _parsed(request.peer)
        if address is None:
            return None
        hops = b",".join(request.all(b"x-forwarded-for")).decode("latin-1").split(",") if self._trusted else []
        # Each proxy appends the address of its own client. Walk back until an address is not a trusted proxy's.
        while hops and self._trusts(address):
            before = _parsed(hops.pop().strip())
            if before is None:
                break
            address = before
        return address

    def _trusts(self, address: Address) -> bool:
        return any(address in network for network in self._trusted)


def _parsed(text: str) -> Address | None:
    try:
        address = ip_address(text)
    except ValueError:
        return None
    return (address.version == 6 and address.ipv4_mapped) or address  # noqa: PLR2004
