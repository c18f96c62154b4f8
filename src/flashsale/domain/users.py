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

    # Buys, and sees its own orders.
    BUYER = "buyer"
    # Reads products and orders, cancels and refunds orders, finds buyers.
    SUPPORT = "support"
    # Reads products and orders, pauses and resumes sales.
    OPERATOR = "operator"
    # Everything.
    ADMIN = "admin"


STAFF = frozenset({Role.SUPPORT, Role.OPERATOR, Role.ADMIN})
"""The roles that may read products, orders, refunds and the status."""


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """An account; its email is unique regardless of case."""

    user_id: UUID
    name: str
    email: str
    role: Role
    created_at: datetime
    generation: int = 0
    """Rises with a new password, another role and a sign-out; tokens of a lower one end."""

    @property
    def principal(self) -> Principal:
        """Return whom a token that is issued now speaks for."""
        return Principal(user_id=self.user_id, role=self.role, generation=self.generation)


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """Who a verified token speaks for."""

    user_id: UUID
    role: Role
    generation: int = 0
    """That of the account when the token was issued; the token ends when the account's rises."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Revocation:
    """An account's tokens of a lower generation have ended; all of them, if the account was deleted."""

    user_id: UUID
    generation: int
