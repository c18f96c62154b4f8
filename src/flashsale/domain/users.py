"""Users and what they may do."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime
    from uuid import UUID

GENERATION_MAX = 2**31 - 1


class Role(enum.StrEnum):
    """What a user may do."""

    BUYER = "buyer"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """An account; its email is unique regardless of case."""

    user_id: UUID
    name: str
    email: str
    role: Role
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """Who a verified token speaks for."""

    user_id: UUID
    role: Role
    generation: int = 0
    """That of the account when the token was issued; the token ends when the account's rises."""
