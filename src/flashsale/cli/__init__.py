"""The command line: `flashsale --help`."""

from flashsale.cli import accounts, checks, processes, stack, status
from flashsale.cli.group import main

__all__ = ["accounts", "checks", "main", "processes", "stack", "status"]
