"""The trail of administration: who changed what, when and from where."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime
    from uuid import UUID

CLI = "cli"
"""The actor of what the command line does without an account."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Author:
    """Who acts, from where, and by which call."""

    user_id: UUID | None
    """The account; None: the command line."""
    action: str
    """The operation's name in the API reference, or the command."""
    origin: str
    """The client's address; of the command line, the user and the machine."""
    request_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TrailEntry:
    """A row of the trail."""

    trail_id: int
    at: datetime
    user_id: UUID | None
    """The account that acted."""
    actor: str
    """Its e-mail root at that time; `cli`: the command line; `system`: anything else."""
    origin: str
    action: str
    object: str
    """`product/7`, `order/<id>` or `account/<id>`."""
    old: Mapping[str, Any] | None
    """The values that changed, before; None: there was no such object."""
    new: Mapping[str, Any] | None
    request_id: str | None
