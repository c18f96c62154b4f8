"""A webhook goes to public addresses only: every special network of IPv4 and IPv6, in every notation of an address."""

from __future__ import annotations

import ipaddress
import random

import pytest

from flashsale.domain.addresses import address_allowed, check_url
from flashsale.domain.errors import InvalidInput

# The special-purpose registries of IANA (RFC 6890 and later), multicast and what is reserved.
SPECIAL_4 = [
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.0.2.0/24",
    "192.88.99.0/24",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "224.0.0.0/4",
    "240.0.0.0/4",
]
SPECIAL_6 = [
    "::/127",
    "::/96",
    "64:ff9b::/96",
    "64:ff9b:1::/48",
    "100::/64",
    "2001::/32",
    "2001:2::/48",
    "2001:10::/28",
    "2001:20::/28",
    "2001:db8::/32",
    "2002::/16",
    "3fff::/20",
    "5f00::/16",
    "fc00::/7",
    "fe80::/10",
    "fec0::/10",
    "ff00::/8",
    "4000::/3",
]
LOOPBACK = ("127.0.0.0/8", "::1/128")
PUBLIC = (
    "1.1.1.1",
    "8.8.8.8",
    "93.184.215.14",
    "172.15.255.255",
    "172.32.0.0",
    "11.0.0.0",
    "2606:4700::1111",
    "2a00:1450::1",
)


def instances(networks):
    """First, last and some addresses between of each network; those of IPv4 also as IPv6 writes them."""
    seeded = random.Random(1)
    for network in map(ipaddress.ip_network, networks):
        size = network.num_addresses
        for place in {0, 1 % size, size // 2, size - 1, *(seeded.randrange(size) for _ in range(40))}:
            address = network[place]
            yield str(address)
            if address.version == 4:
                yield f"::ffff:{address}"
                yield str(ipaddress.ip_address(f"::ffff:{address}"))
            else:
                yield address.exploded
                yield address.exploded.upper()
                yield f"{address}%lo"


def test_no_address_of_a_special_network_is_allowed():
    tried = list(instances([*SPECIAL_4, *SPECIAL_6]))
    assert len(tried) > 3000
    assert [one for one in tried if address_allowed(one, loopback=False)] == []
    ours = [one for one in tried if not ipaddress.ip_address(one).is_loopback]
    assert [one for one in ours if address_allowed(one, loopback=True)] == [], "loopback opens nothing else"


def test_loopback_is_allowed_only_where_it_is_said():
    tried = list(instances(LOOPBACK))
    assert [one for one in tried if address_allowed(one, loopback=False)] == []
    assert [one for one in tried if not address_allowed(one, loopback=True)] == []


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_are_allowed(address):
    assert address_allowed(address, loopback=False)


@pytest.mark.parametrize("text", ["", "localhost", "127.1", "0x7f000001", "2130706433", "1.2.3.4.5", "::g"])
def test_what_is_no_address_is_not_allowed(text):
    assert not address_allowed(text, loopback=True)


def test_no_url_names_a_special_address():
    for one in instances([*SPECIAL_4, *SPECIAL_6, *LOOPBACK]):
        host = f"[{one}]" if ":" in one else one
        with pytest.raises(InvalidInput):
            check_url(f"https://{host}/hooks", loopback=False)


@pytest.mark.parametrize(
    "url",
    [
        "", "shop.example", "http://shop.example/", "ftp://shop.example/", "https://", "https:///hooks", "//shop.example",
        "https://user:pass@shop.example/", "https://user@shop.example/", "https://shop.example/#a", "https://shop.example:0/",
        "https://shop.example:99999/", "https://shop.example/a b", "https://shop.example/\r\nX: y", "https://[::1", "file:///etc/passwd",
        "https://shöp.example/", "https://" + "a" * 2100, "http://127.0.0.1/", "http://localhost/", "http://8.8.8.8/",
    ],
)  # fmt: skip
def test_what_is_no_endpoint_is_refused(url):
    with pytest.raises(InvalidInput) as refusal:
        check_url(url, loopback=False)
    assert refusal.value.field == "url"


@pytest.mark.parametrize(
    "url", ["https://shop.example/hooks?a=1", "https://8.8.8.8:8443/", "https://[2606:4700::1111]/"]
)
def test_public_urls_are_endpoints(url):
    assert check_url(url, loopback=False) == url


def test_this_machine_is_an_endpoint_of_a_stack_for_development():
    for url in ("http://127.0.0.1:9/hooks", "http://localhost:9/", "http://[::1]:9/", "https://127.0.0.1/"):
        assert check_url(url, loopback=True) == url
    for url in ("http://10.0.0.1/", "http://shop.example/", "http://8.8.8.8/", "https://169.254.169.254/"):
        with pytest.raises(InvalidInput):
            check_url(url, loopback=True)
