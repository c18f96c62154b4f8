"""Every command, and the environment that it runs in."""

from __future__ import annotations

import sys

from tests.conftest import of_this_checkout

CLI = [sys.executable, "-m", "flashsale.cli"]


COMMANDS = {
    "audit": [*CLI, "audit"],
    "buyers": [*CLI, "buyers", "--count", "3"],
    "admin": [*CLI, "admin", "create", "admin@example.com"],
    "token": [*CLI, "token", "admin@example.com"],
    "serve": [*CLI, "serve", "--port", "0"],
    "serve in two processes": [*CLI, "serve", "--port", "0"],
    "orders": [sys.executable, "-m", "workers", "orders"],
    "payments": [sys.executable, "-m", "workers", "payments"],
    "maintenance": [sys.executable, "-m", "workers", "maintenance"],
    "simulator": [*CLI, "simulator", "--port", "0"],
}


def environment(postgres_url, redis_url, name="", **more):
    return {
        **of_this_checkout(),
        "FLASHSALE_POSTGRES__URL": postgres_url,
        "FLASHSALE_REDIS__URL": redis_url,
        "FLASHSALE_AUTH__JWT_SECRET": "only-for-tests: 0123456789 abcdefgh",
        "FLASHSALE_PAYMENTS__GATEWAY_URL": "http://127.0.0.1:9",
        "FLASHSALE_PAYMENTS__GATEWAY_SECRET": "secret",
        "FLASHSALE_HTTP__PROCESSES": "2" if "two" in name else "1",
        **more,
    }
