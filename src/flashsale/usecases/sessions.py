"""The end of tokens before they expire (sign-out, new password, other role), and the check of roles."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

import structlog

from flashsale.domain.errors import BadCredentials, Forbidden, InvalidInput, Unauthenticated
from flashsale.domain.passwords import digest_of
from flashsale.domain.users import STAFF, Revocation, Role, User

if TYPE_CHECKING:
    from uuid import UUID

    from flashsale.domain.trail import Author
    from flashsale.domain.users import Principal
    from flashsale.usecases.accounts import Accounts
    from flashsale.usecases.ports import Users
    from flashsale.usecases.revocations import Revocations

log = structlog.get_logger(__name__)


class ResetRequests(Protocol):
    """Requests for new passwords, in Postgres."""

    async def ask(self, email: str, *, pause_s: float) -> None:
        """Note that an account asks for a new password, unless it asked within `pause_s`, or there is none."""
        ...

    async def account(self, digest: bytes) -> User | None:
        """Return the account of a code that may still be used."""
        ...

    async def use(self, digest: bytes, password_hash: str) -> tuple[UUID, int] | None:
        """Use a code up and replace the password hash; returns the account's id and its new generation."""
        ...


class Sessions:
    """The use cases. This process knows a raised generation at once, the others within `live.poll_s`."""

    def __init__(
        self, users: Users, accounts: Accounts, revocations: Revocations, resets: ResetRequests, *, reset_pause_s: float
    ) -> None:
        """Wire it. An account gets a code for a new password at most every `reset_pause_s`."""
        self._resets = resets
        self._reset_pause_s = reset_pause_s
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

    async def sign_out(self, principal: Principal, *, by: Author | None = None) -> None:
        """End all tokens of an account; `by`: whom the trail names if the account is one of staff.

        Raises:
            Unauthenticated: if this one has ended already.
        """
        # The role in the token is that of the account: another role ends the token.
        author = None if principal.role is Role.BUYER else by
        raised = await self._users.raise_generation(principal.user_id, generation=principal.generation, by=author)
        self._note(principal.user_id, raised)

    async def end_all(self, user_id: UUID, by: Author) -> None:
        """End all tokens of another account, as an administrator does; the trail names who did it.

        Raises:
            InvalidInput: if there is no such account.
        """
        raised = await self._users.raise_generation(user_id, by=by)
        if raised is None:
            raise InvalidInput(field="account", problem="does not exist")
        self._note(user_id, raised)

    async def change_password(self, principal: Principal, *, old: str, new: str, by: Author | None = None) -> User:
        """Replace a password, and end all tokens; returns the account, so that the caller can issue a new token.

        `by`: whom the trail names if the account is one of staff.

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
        return await self._replace(user, new, field="newPassword", by=by)

    async def reset_password(self, principal: Principal, *, password: str, by: Author | None = None) -> None:
        """Set a password by a reset token, which ends this and every other token of the account; `by`: as above.

        Raises:
            Unauthenticated: if the token was used, or the account's password changed since it was issued.
            InvalidInput: if the password is not valid.
        """
        user = await self._standing(principal)
        await self._replace(user, password, field="password", by=by)

    async def request_reset(self, *, email: str, address: str) -> None:
        """Let the buyer's account with this e-mail address get a code for a new password, if there is one.

        The caller learns nothing of it. Staff get their tokens at the command line.

        Raises:
            TooManyLogins: after too many requests.
        """
        await self._accounts.count_reset(email=email, address=address)
        if "\x00" not in email:
            await self._resets.ask(email, pause_s=self._reset_pause_s)

    async def reset_by_code(self, code: str, *, password: str) -> None:
        """Set a password by the code of an e-mail, which ends the code and every token of the account.

        Raises:
            Unauthenticated: if the code is wrong, was used or has expired, or the password changed since.
            InvalidInput: if the password is not valid; the code still holds.
        """
        digest = digest_of(code)
        user = await self._resets.account(digest)
        if user is None:
            raise wrong_code()
        hashed = await self._hashed(password, user, field="password")
        used = await self._resets.use(digest, hashed)
        if used is None:
            raise wrong_code()
        self._revocations.take(Revocation(user_id=used[0], generation=used[1]))
        log.info("account.password_changed", user_id=str(used[0]))

    async def _hashed(self, password: str, user: User, *, field: str) -> str:
        try:
            return await self._accounts.hashed(password, email=user.email)
        except InvalidInput as error:
            raise InvalidInput(field=field, problem=error.detail.removeprefix(f"{error.field} ")) from error

    async def _replace(self, user: User, password: str, *, field: str, by: Author | None) -> User:
        hashed = await self._hashed(password, user, field=field)
        # The trail has no row of a buyer's password, so a buyer's change needs no author.
        author = None if user.role is Role.BUYER else by
        raised = await self._users.set_password(user.user_id, hashed, generation=user.generation, by=author)
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


def wrong_code() -> Unauthenticated:
    """Say that a code for a new password does not hold."""
    return Unauthenticated("The code is wrong, was used, or has expired; ask for another.", refused=True)


def ended() -> Unauthenticated:
    """Say that a token has ended before it expired."""
    return Unauthenticated("The token has been revoked; log in again.", refused=True)
