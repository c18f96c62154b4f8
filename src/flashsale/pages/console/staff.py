"""Staff: who has which role; and the audit on demand."""

from __future__ import annotations

import secrets
import time
from typing import TYPE_CHECKING
from uuid import UUID

from flashsale.domain.emails import EMAIL_MAX
from flashsale.domain.errors import Forbidden, InvalidInput
from flashsale.domain.users import STAFF, Role
from flashsale.pages.console.forms import text_of
from flashsale.pages.console.frame import Action, Page, of_staff
from flashsale.usecases.ports import PoisonBatch

if TYPE_CHECKING:
    from flashsale.domain.requests import AdminRequest
    from flashsale.domain.users import User
    from flashsale.http.messages import Answer
    from flashsale.pages.console.frame import Frame, Visit

LIST = "/console/staff"
ONE = f"{LIST}/{{user_id:uuid}}"
AUDIT = "/console/audit"

# The trail calls them as it calls the commands.
LOOK = of_staff("admin list", "admin")
CREATE = of_staff("admin create", "admin")
CHANGE_ROLE = of_staff("admin role", "admin")
RESET = of_staff("password-reset", "admin")
END = of_staff("sign-out", "admin")
RUN_AUDIT = of_staff("audit", "operator")

ROLES = (Role.SUPPORT, Role.OPERATOR, Role.ADMIN)

ONLY_THE_OWNER = (
    "The database user of the API may neither make staff nor change a role, which is as it should be: run "
    "`flashsale admin create` or `flashsale admin role` as the owner of the tables."
)


class Staff:
    """The pages and actions."""

    def __init__(self, frame: Frame) -> None:
        """Use a frame."""
        self._frame = frame
        self._services = frame.services

    def pages(self) -> list[Page]:
        """Return the pages."""
        return [
            Page(path=LIST, right=LOOK, view=self.all),
            Page(path=AUDIT, right=RUN_AUDIT, view=self.audit),
        ]

    def actions(self) -> list[Action]:
        """Return the actions."""
        return [
            Action(path=LIST, right=CREATE, act=self.create, form=self.all),
            Action(path=f"{ONE}/role", right=CHANGE_ROLE, act=self.change_role, form=self.all),
            Action(path=f"{ONE}/reset", right=RESET, act=self.reset, form=self.all),
            Action(path=f"{ONE}/sign-out", right=END, act=self.sign_out, form=self.all),
            Action(path=AUDIT, right=RUN_AUDIT, act=self.run_audit, form=self.audit),
        ]

    async def all(self, visit: Visit) -> Answer:
        """List the accounts of staff."""
        return await self._listed(visit)

    async def create(self, visit: Visit, request: AdminRequest) -> Answer:
        """Make an account, and show the token with which its owner sets the password."""
        email = text_of(visit.field("email"), "email", most=EMAIL_MAX) or ""
        role = _role(visit.field("role"))
        if role not in STAFF:
            raise InvalidInput(field="role", problem="must be support, operator or admin")
        # Nobody knows this password: the token replaces it.
        password = secrets.token_urlsafe(32)
        try:
            user = await self._services.accounts.create_staff(
                email=email, password=password, role=role, by=request.author
            )
        except PoisonBatch as error:
            raise Forbidden(ONLY_THE_OWNER) from error
        return await self._listed(visit, user)

    async def change_role(self, visit: Visit, request: AdminRequest) -> str:
        """Give an account another role, which ends its tokens."""
        user = await self._found(visit)
        if user.user_id == visit.user.user_id:
            raise InvalidInput(field="role", problem="of your own account is changed by another administrator")
        try:
            await self._services.accounts.set_role(user.email, _role(visit.field("role")), by=request.author)
        except PoisonBatch as error:
            raise Forbidden(ONLY_THE_OWNER) from error
        return f"{LIST}?done=role"

    async def reset(self, visit: Visit, request: AdminRequest) -> Answer:
        """Show a token with which the owner of an account sets a new password."""
        user = await self._found(visit)
        await self._services.users.note(user.user_id, request.author)
        return await self._listed(visit, user)

    async def sign_out(self, visit: Visit, request: AdminRequest) -> str:
        """End every session and token of an account."""
        user = await self._found(visit)
        await self._services.sessions.end_all(user.user_id, request.author)
        return f"{LIST}?done=ended"

    async def audit(self, visit: Visit) -> Answer:
        """Show the button that runs the audit."""
        return self._frame.render(visit, "audit.html", results=None, seconds=0.0)

    async def run_audit(self, visit: Visit, _: AdminRequest) -> Answer:
        """Check the invariants now, and show a line for each."""
        began_s = time.monotonic()
        results = await self._services.audit_now()
        return self._frame.render(visit, "audit.html", results=results, seconds=time.monotonic() - began_s)

    async def _found(self, visit: Visit) -> User:
        user = await self._services.users.account(UUID(visit.ids["user_id"]))
        if user is None or user.role not in STAFF:
            raise InvalidInput(field="account", problem="is none of staff")
        return user

    async def _listed(self, visit: Visit, new: User | None = None) -> Answer:
        token = None if new is None else self._frame.parts.tokens.issue_reset(new.principal)
        minutes = self._services.settings.auth.reset_token_ttl_s // 60
        staff = await self._services.users.staff()
        return self._frame.render(visit, "staff.html", staff=staff, roles=ROLES, new=new, token=token, minutes=minutes)


def _role(text: str) -> Role:
    try:
        return Role(text)
    except ValueError:
        raise InvalidInput(field="role", problem=f"must be one of {', '.join(Role)}") from None
