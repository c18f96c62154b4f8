"""What `flashsale doctor` found, and the facts that it judges."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence


class Verdict(enum.StrEnum):
    """How serious a finding is."""

    OK = "OK"
    # It works, and something should be looked at.
    WARN = "WARN"
    # A promise of the system does not hold, or a part does not work.
    WRONG = "WRONG"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """The result of one check."""

    check: str
    verdict: Verdict
    what: str
    todo: str = ""
    """What to do; empty if nothing is to do."""


class Right(NamedTuple):
    """A privilege of a role on a table, or the right to call a function."""

    role: str
    privilege: str
    target: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RoleFacts:
    """A database user of the processes."""

    role: str
    too_mighty: bool
    """It is a superuser, may make roles, or owns a table."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PostgresFacts:
    """What a Postgres server says of itself."""

    version: str
    version_number: int
    """Such as 180001."""
    clock_ahead_s: float
    """How far its clock is ahead of this machine's."""
    read_only: bool
    connections_max: int
    """Connections that ordinary users may open."""
    connections: int
    fsync: bool
    full_page_writes: bool
    synchronous_commit: str
    standby_names: str
    """`synchronous_standby_names`: empty if COMMIT waits for no standby."""
    schema_problem: str | None
    """How the schema differs from this release's."""
    roles: Sequence[RoleFacts]
    missing_rights: Sequence[Right]
    excess_rights: Sequence[Right]


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisFacts:
    """What a Redis or Valkey server says of itself."""

    version: str
    """Of the protocol that it is compatible with."""
    clock_ahead_s: float
    is_replica: bool
    is_foreign_node: bool
    """Whether it is a node of a cluster although the setting names it as the only server."""
    maxmemory: int
    """Bytes; 0 means no limit."""
    used_memory: int
    eviction: str
    """The `maxmemory-policy`."""
    writes_log: bool
    """Whether it appends each command to a file."""
    writes_snapshots: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Unreached:
    """A part that could not be asked."""

    problem: str
