"""Accounts: register and log in."""

from __future__ import annotations

import enum
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

import structlog

from flashsale.domain.emails import check_email, email_key
from flashsale.domain.errors import BadCredentials, FlashSaleError, InvalidInput, TooManyLogins, Unavailable
from flashsale.domain.passwords import check_password, normalised
from flashsale.domain.users import Role, User
from flashsale.usecases.login_limits import Source, whole_s

if TYPE_CHECKING:
    from uuid import UUID

    from flashsale.domain.trail import Author
    from flashsale.usecases.login_limits import LoginLimits
    from flashsale.usecases.ports import Users

log = structlog.get_logger(__name__)

NAME_MAX = 200

ADMINISTRATORS_S = 5.0
"""How long the administrators' addresses are cached."""


class Lane(enum.IntEnum):
    """The order in which passwords are compared. Each lane has its own queue, which other lanes cannot fill."""

    # The account logged in from this address before, or the request carries the account's token.
    KNOWN = 0
    # The account is an administrator's.
    ADMINISTRATOR = 1
    OTHERS = 2


class Passwords(Protocol):
    """Hashes passwords outside the event loop, a bounded number at once."""

    def check_room(self, lane: Lane) -> None:
        """Raise `Unavailable` if too many wait."""
        ...

    async def hash(self, password: str) -> str:
        """Return a salted hash; `Unavailable` if too many wait, or for too long."""
        ...

    async def verify(self, password: str, hashed: str | None, lane: Lane) -> bool:
        """Compare a password with a hash. None takes as long as any hash and never matches. Raises like `hash`."""
        ...


class Accounts:
    """The use cases."""

    def __init__(self, users: Users, passwords: Passwords, limits: LoginLimits | None) -> None:
        """Keep the parts; without `limits` nobody can log in."""
        self._users = users
        self._passwords = passwords
        if limits is not None:
            self._limits = limits
        self._administrators: frozenset[str] = frozenset()
        self._administrators_read_s = float("-inf")

    async def register(
        self, *, name: str, email: str, password: str, role: Role = Role.BUYER, by: Author | None = None
    ) -> User:
        """Create an account; `by`: who creates an account of staff.

        Raises:
            InvalidInput: if a field is not valid.
            EmailTaken: if the email is in use, in any form (`domain.emails.email_key`).
            Unavailable: if too many passwords wait to be hashed.
        """
        name = name.strip()
        if not 1 <= len(name) <= NAME_MAX or "\x00" in name:
            raise InvalidInput(field="name", problem=f"must have 1 to {NAME_MAX} characters")
        check_email(email)
        hashed = await self.hashed(password, email=email)
        return await self._users.create(name=name, email=email, password_hash=hashed, role=role, by=by)

    async def log_in(self, *, email: str, password: str, address: str, session: UUID | None = None) -> User:
        """Return the account that email and password belong to.

        `address`: where the login comes from. `session`: the account whose token the request carries; a login to that
        account has a lane of its own.

        Raises:
            BadCredentials: if the email is unknown or the password wrong; text and duration do not tell which.
            TooManyLogins: if the account, the address, or the pair of both has to wait before the next try.
            Unavailable: if too many passwords wait to be hashed.
        """
        account = _account(email)
        found = None
        own_session = False
        if session is not None:
            found = await self._found(email)
            own_session = found is not None and found[0].user_id == session
        source = Source.of(account, f"session {session}" if own_session else address)
        administrator = account in await self._administrators_now()
        permit = await self._limits.begin(source, exempt=administrator or own_session)
        if permit.wait_s:
            raise TooManyLogins(whole_s(permit.wait_s))
        exempt = permit.known or own_session
        lane = Lane.KNOWN if exempt else Lane.ADMINISTRATOR if administrator else Lane.OTHERS
        try:
            self._passwords.check_room(lane)
            user, hashed = found or await self._found(email) or (None, None)
            matches = await self._matches(password, hashed, lane)
        except FlashSaleError:
            await self._limits.undone(source)
            raise
        if not matches or user is None:
            await self._limits.failed(source, counted=not exempt)
            # The same answer as for everybody, so that only the right password reveals an administrator's exemption.
            raise TooManyLogins(whole_s(permit.refused_s)) if permit.refused_s else BadCredentials
        await self._limits.passed(source)
        return user

    async def count_reset(self, *, email: str, address: str) -> None:
        """Count a request for a new password, by the limits of failed logins and apart from them.

        Raises:
            TooManyLogins: if the account, the address, or the pair of both has to wait before the next request.
        """
        source = Source.of(f"reset {_account(email)}", f"reset {address}")
        wait_s = (await self._limits.begin(source, exempt=False)).wait_s
        if wait_s:
            raise TooManyLogins(whole_s(wait_s))
        await self._limits.failed(source, counted=True)

    async def create_staff(
        self, *, email: str, password: str, role: Role = Role.ADMIN, if_missing: bool = False, by: Author | None = None
    ) -> User:
        """Create an account of staff; with `if_missing`, one that has this role already stays as it is.

        Raises:
            InvalidInput: if the password is not valid, or the email belongs to another account.
        """
        check_password(password, email=email)
        found = await self._found(email)
        if found is None:
            return await self.register(name=role.capitalize(), email=email, password=password, role=role, by=by)
        if if_missing and found[0].role is role:
            return found[0]
        raise InvalidInput(
            field="email",
            problem=f"belongs to an account with the role {found[0].role}: change its role or its password instead",
        )

    async def set_staff_password(self, *, email: str, password: str, by: Author | None = None) -> User:
        """Give an account of staff a password, which ends its tokens.

        Raises:
            InvalidInput: if the password is not valid, or no account of staff has this email.
        """
        check_password(password, email=email)
        found = await self._found(email)
        if found is None or found[0].role is Role.BUYER:
            raise InvalidInput(field="email", problem="belongs to no account of staff")
        user, hashed = found
        if not await self._matches(password, hashed, Lane.KNOWN):
            await self._users.set_password(user.user_id, await self.hashed(password, email=email), by=by)
        return user

    async def set_role(self, email: str, role: Role, *, by: Author | None = None) -> User:
        """Give an account a role, which ends its tokens if the role is another one; returns the account.

        Raises:
            InvalidInput: if no account has this email.
        """
        found = await self._found(email)
        if found is None:
            raise InvalidInput(field="email", problem="belongs to no account")
        await self._users.set_role(found[0].user_id, role, by=by)
        return replace(found[0], role=role)

    async def hashed(self, password: str, *, email: str) -> str:
        """Return the hash of a new password.

        Raises:
            InvalidInput: if the password is not valid.
            Unavailable: if too many passwords wait to be hashed.
        """
        check_password(password, email=email)
        return await self._passwords.hash(normalised(password))

    async def _found(self, email: str) -> tuple[User, str | None] | None:
        return await self._users.credentials(email) if "\x00" not in email else None

    async def _matches(self, password: str, hashed: str | None, lane: Lane) -> bool:
        """Compare a password in its normal form, and as it was typed, which older hashes were made from."""
        form = normalised(password)
        return await self._passwords.verify(form, hashed, lane) or (
            form != password and await self._passwords.verify(password, hashed, lane)
        )

    async def _administrators_now(self) -> frozenset[str]:
        now_s = time.monotonic()
        if now_s - self._administrators_read_s > ADMINISTRATORS_S:
            # One read at a time; meanwhile the old addresses are used.
            self._administrators_read_s = now_s
            try:
                self._administrators = frozenset(_account(one) for one in await self._users.administrators())
            except Unavailable as error:
                log.info("administrators.unread", reason=error.detail)
        return self._administrators


def _account(email: str) -> str:
    """Return the key that counts tries: the same for all forms of an address, and defined for invalid addresses."""
    return email_key(email) or email.casefold()
