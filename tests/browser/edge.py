"""The shipped nginx with TLS before a stack."""

from __future__ import annotations

import urllib.parse
from contextlib import contextmanager

from tests.support.certificates import certificate
from tests.support.shipped_nginx import BINARIES, shipped_nginx


@contextmanager
def edge(folder, upstream_url):
    """Run nginx before the API at this URL; returns the URL of the edge."""
    # The workers write below it; where root runs the tests they may be another user.
    folder.chmod(0o755)
    given = folder / "certificate"
    given.mkdir()
    certificate(given, "localhost")
    (given / "localhost.crt").rename(given / "fullchain.pem")
    (given / "localhost.key").rename(given / "privkey.pem")
    upstream = urllib.parse.urlsplit(upstream_url).port
    with shipped_nginx(folder, next(iter(BINARIES.values())), upstream=upstream) as (running, _):
        yield f"https://localhost:{running.tls_port}"
