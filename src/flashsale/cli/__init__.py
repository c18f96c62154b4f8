"""The command line: `flashsale --help`."""

from flashsale.cli import (
    accounts,
    archives,
    backups,
    books,
    checks,
    desk,
    doctor,
    exports,
    processes,
    products,
    secret,
    stack,
    status,
    support,
    trace,
    trail,
    webhooks,
)
from flashsale.cli.group import main

__all__ = [
    "accounts",
    "archives",
    "backups",
    "books",
    "checks",
    "desk",
    "doctor",
    "exports",
    "main",
    "processes",
    "products",
    "secret",
    "stack",
    "status",
    "support",
    "trace",
    "trail",
    "webhooks",
]
