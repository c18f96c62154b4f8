"""The end of tokens before they expire (sign-out, new password, other role), and the check of roles."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import structlog

from flashsale.domain.errors import BadCredentials, Forbidden, InvalidInput, Unauthenticated
from flashsale.domain.users import STAFF, Revocation, Role, User

if TYPE_CHECKING:
    from uuid import UUID

    from flashsale.domain.users import Principal
    from flashsale.usecases.accounts import Accounts
    from flashsale.usecases.ports import Users
    from flashsale.usecases.revocations import Revocations

log = structlog.get_logger(__name__)


class Sessions:
    """The use cases. This process knows a raised generation at once, the others within `live.poll_s`."""

    def __init__(self, users: Users, accounts: Accounts, revocations: Revocations) -> None:
        """Wire it."""
        self._users = users
        self._accounts = accounts
        self._revocations = revocations

    async def require(self, principal: Principal, roles: frozenset[Role] = STAFF) -> None:
        """Make sure that the bearer of a token has one of these roles now, regardless of the role in the token.

        Raises:
            Unauthenticated: if the token has ended: a new password, another role, a sign-out, a deletion.
            Forbidden: if the account has another role.
        """
        role = Role.BUYER
        # A buyer's token needs no look-up.
        if principal.role is not Role.BUYER:
            role = (await self._standing(principal)).role
        if role not in roles:
            raise Forbidden(f"This call needs the role {' or '.join(sorted(roles))}; your account's role is {role}.")

    async def sign_out(self, principal: Principal) -> None:
        """End all tokens of an account.

        Raises:
            Unauthenticated: if this one has ended already.
        """
        raised = await self._users.raise_generation(principal.user_id, generation=principal.generation)
        self._note(principal.user_id, raised)

    async def change_password(self, principal: Principal, *, old: str, new: str) -> User:
        """Replace a password, and end all tokens; returns the account, so that the caller can issue a new token.

        Raises:
            Unauthenticated: if this token has ended.
            InvalidInput: if the old password is wrong, or the new one is not valid.
            TooManyLogins: after too many wrong passwords.
        """
        user = await self._standing(principal)
        try:
            # Counted and limited like a login of this session.
            await self._accounts.log_in(email=user.email, password=old, address="", session=user.user_id)
        except BadCredentials:
            raise InvalidInput(field="oldPassword", problem="is wrong") from None
        return await self._replace(user, new, field="newPassword")

    async def reset_password(self, principal: Principal, *, password: str) -> None:
        """Set a password by a reset token, which ends this and every other token of the account.

        Raises:
            Unauthenticated: if the token was used, or the account's password changed since it was issued.
            InvalidInput: if the password is not valid.
        """
        user = await self._standing(principal)
        await self._replace(user, password, field="password")

    async def _replace(self, user: User, password: str, *, field: str) -> User:
        try:
            hashed = await self._accounts.hashed(password, email=user.email)
        except InvalidInput as error:
            raise InvalidInput(field=field, problem=error.detail.removeprefix(f"{error.field} ")) from error
        raised = await self._users.set_password(user.user_id, hashed, generation=user.generation)
        generation = self._note(user.user_id, raised)
        log.info("account.password_changed", user_id=str(user.user_id))
        return replace(user, generation=generation)

    async def _standing(self, principal: Principal) -> User:
        """Read the account of a token that has not ended."""
        user = await self._users.account(principal.user_id)
        if user is None or user.generation != principal.generation:
            raise ended()
        return user

    def _note(self, user_id: UUID, generation: int | None) -> int:
        if generation is None:
            raise ended()
        self._revocations.take(Revocation(user_id=user_id, generation=generation))
        return generation


def ended() -> Unauthenticated:
    """Say that a token has ended before it expired."""
    return Unauthenticated("The token has been revoked; log in again.", refused=True)
