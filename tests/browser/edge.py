"""The shipped nginx with TLS, before a stack."""

from __future__ import annotations

import urllib.parse
from contextlib import asynccontextmanager

from tests.support.certificates import certificate
from tests.support.shipped_nginx import BINARIES, shipped_nginx


@asynccontextmanager
async def edge(folder, upstream_url):
    """Run nginx before the API at this URL; returns the URL of the edge."""
    place = folder / "certificate"
    place.mkdir()
    certificate(place, "localhost")
    (place / "localhost.crt").rename(place / "fullchain.pem")
    (place / "localhost.key").rename(place / "privkey.pem")
    upstream = urllib.parse.urlsplit(upstream_url).port
    with shipped_nginx(folder, list(BINARIES.values())[-1], upstream=upstream) as (made, _):
        yield f"https://localhost:{made.tls_port}"
