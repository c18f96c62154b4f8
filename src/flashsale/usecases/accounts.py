"""Accounts: register and log in."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Protocol

from flashsale.domain.errors import BadCredentials, InvalidInput
from flashsale.domain.users import Role, User

if TYPE_CHECKING:
    from flashsale.usecases.ports import Users

_EMAIL = re.compile(r"[^@\s\x00-\x1f]{1,64}@[^@\s\x00-\x1f]+\.[^@\s\x00-\x1f.]+")
EMAIL_MAX = 254
NAME_MAX = 200
PASSWORD_MIN, PASSWORD_MAX = 8, 128


class Passwords(Protocol):
    """Hashes passwords, away from the event loop, a bounded number at once."""

    def check_room(self) -> None:
        """Raise `Unavailable` if too many wait."""
        ...

    async def hash(self, password: str) -> str:
        """Give a salted hash; `Unavailable` if too many wait."""
        ...

    async def verify(self, password: str, hashed: str | None) -> bool:
        """Compare; None takes as long as any hash and never matches. `Unavailable` if too many wait."""
        ...


class Accounts:
    """The use cases."""

    def __init__(self, users: Users, passwords: Passwords) -> None:
        """Wire it."""
        self._users = users
        self._passwords = passwords

    async def register(self, *, name: str, email: str, password: str, role: Role = Role.BUYER) -> User:
        """Create an account.

        Raises:
            InvalidInput: if a field does not hold what it must.
            EmailTaken: if the email is in use, whatever its case.
            Unavailable: if too many passwords wait to be hashed.
        """
        name = name.strip()
        if not 1 <= len(name) <= NAME_MAX or "\x00" in name:
            raise InvalidInput(field="name", problem=f"must have 1 to {NAME_MAX} characters")
        if len(email) > EMAIL_MAX or _EMAIL.fullmatch(email) is None:
            raise InvalidInput(field="email", problem="must be an address such as ada@example.com")
        check_password(password)
        hashed = await self._passwords.hash(password)
        return await self._users.create(name=name, email=email, password_hash=hashed, role=role)

    async def log_in(self, *, email: str, password: str) -> User:
        """Give the account that email and password belong to.

        Raises:
            BadCredentials: after the same time and with the same words for an unknown email and a wrong password.
            Unavailable: if too many passwords wait to be hashed.
        """
        self._passwords.check_room()
        found = await self._users.credentials(email) if "\x00" not in email else None
        user, hashed = found if found is not None else (None, None)
        if not await self._passwords.verify(password, hashed) or user is None:
            raise BadCredentials
        return user

    async def ensure_admin(self, *, email: str, password: str, change: bool = True) -> User:
        """Create an administrator, or give an existing one this password unless `change` is false.

        Raises:
            InvalidInput: if the password does not hold what it must; if the email belongs to somebody who is no
                administrator.
        """
        check_password(password)
        found = await self._users.credentials(email) if "\x00" not in email else None
        if found is None:
            return await self.register(name="Administrator", email=email, password=password, role=Role.ADMIN)
        user, hashed = found
        if user.role is not Role.ADMIN:
            raise InvalidInput(field="email", problem="belongs to a buyer")
        if change and not await self._passwords.verify(password, hashed):
            await self._users.set_password(user.user_id, await self._passwords.hash(password))
        return user


def check_password(password: str) -> None:
    """Raise `InvalidInput` unless a new password has a sane length and characters that can be seen."""
    if not PASSWORD_MIN <= len(password) <= PASSWORD_MAX or "\x00" in password:
        raise InvalidInput(field="password", problem=f"must have {PASSWORD_MIN} to {PASSWORD_MAX} characters")
    if not password.strip():
        raise InvalidInput(field="password", problem="must not be spaces only")
