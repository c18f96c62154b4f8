"""The trail of administration, for administrators."""

from __future__ import annotations

from datetime import UTC, datetime
from http import HTTPStatus
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

from litestar import get
from litestar.params import FromQuery, QueryParameter

from flashsale.domain.errors import InvalidInput
from flashsale.http.auth import permitted
from flashsale.http.fields import LATER, MOMENT, USER_ID, shown
from flashsale.http.limits import limited
from flashsale.http.operations import SERVERS, Given, Operation, Parameter, plain_text
from flashsale.http.schemas import Out
from flashsale.http.services import UseServices
from flashsale.usecases.trail import READ_MAX

if TYPE_CHECKING:
    from flashsale.domain.trail import TrailEntry


class TrailOut(Out):
    """A change, or another action, of administration."""

    id: Annotated[int, shown("The row's number.", 4711, ge=1)]
    at: Annotated[datetime, shown("When, by Postgres' clock.", MOMENT)]
    actor: Annotated[
        str,
        shown(
            "Who: the e-mail address of the account, without a tag; `cli`: the command line; `system`: anything else.",
            "grace@example.com",
        ),
    ]
    user_id: Annotated[UUID | None, shown("The account; null: no account.", USER_ID)]
    origin: Annotated[
        str,
        shown("The client's address; of the command line, the user and the machine; else the database's user.", "::1"),
    ]
    action: Annotated[str, shown("The operation's name here, or the command.", "pauseSale")]
    object: Annotated[str, shown("`product/`, `order/` or `account/`, and the id.", "product/7")]
    old: Annotated[
        dict[str, Any] | None, shown("The values that changed, before; null: it was new.", {"paused": False})
    ]
    new: Annotated[dict[str, Any] | None, shown("The same values, after; null: it is gone.", {"paused": True})]
    request_id: Annotated[str | None, shown("The request's id, which log lines carry.", "5f2c9a01be44-2a")]


def _filter(name: str, schema: dict[str, Any], description: str, example: object) -> Parameter:
    return Parameter(name=name, place="query", schema=schema, description=description, example=example)


TEXT = plain_text(254)
INSTANT = {"type": "string", "format": "date-time"}

TRAIL = Operation(
    name="listTrail",
    summary="Who changed what",
    description="List what administration changed, the newest first, a page at a time: products, refunds, orders, and "
    "the roles and passwords of accounts that are no buyer's. The rows can be neither changed nor deleted.",
    tag="administration",
    caller="admin",
    limit="administration",
    parameters=(
        _filter(
            "actor", TEXT, "Only what this e-mail address, account id, `cli` or `system` did.", "grace@example.com"
        ),
        _filter("action", TEXT, "Only this operation or command.", "pauseSale"),
        _filter("object", TEXT, "Only what was done to this object.", "product/7"),
        _filter("since", INSTANT, "Only changes at this time or later.", MOMENT),
        _filter("until", INSTANT, "Only changes before this time.", LATER),
        _filter(
            "before",
            {"type": "integer", "minimum": 1, "maximum": 2**63 - 1},
            "The last row's number of the previous page.",
            4711,
        ),
        _filter(
            "limit",
            {"type": "integer", "minimum": 1, "maximum": READ_MAX, "default": 100},
            "Maximum number of rows in a page.",
            100,
        ),
    ),
    gives=(Given(status=HTTPStatus.OK, description="A page of the trail.", model=list[TrailOut]),),
    codes=SERVERS,
)


@get("/api/admin/trail", opt={"operation": TRAIL}, guards=[limited("administration"), permitted])
async def read_trail(
    services: UseServices,
    actor: FromQuery[str | None] = None,
    action: FromQuery[str | None] = None,
    of: Annotated[str | None, QueryParameter(name="object")] = None,
    since: FromQuery[datetime | None] = None,
    until: FromQuery[datetime | None] = None,
    before: Annotated[int | None, QueryParameter(ge=1, le=2**63 - 1)] = None,
    limit: Annotated[int, QueryParameter(ge=1, le=READ_MAX)] = 100,
) -> list[TrailOut]:
    """List what administration changed, the newest first."""
    entries = await services.trail.read(
        before=before,
        actor=actor,
        action=action,
        of=of,
        since=_utc("since", since),
        until=_utc("until", until),
        limit=limit,
    )
    return [_out(entry) for entry in entries]


def _utc(field: str, instant: datetime | None) -> datetime | None:
    """Return an instant in UTC, and refuse one that its offset moves out of all years."""
    try:
        return None if instant is None else instant.astimezone(UTC)
    except OverflowError:
        raise InvalidInput(field=field, problem="must be in the years 1 to 9999, in UTC") from None


def _out(entry: TrailEntry) -> TrailOut:
    return TrailOut(
        id=entry.trail_id,
        at=entry.at,
        actor=entry.actor,
        user_id=entry.user_id,
        origin=entry.origin,
        action=entry.action,
        object=entry.object,
        old=None if entry.old is None else dict(entry.old),
        new=None if entry.new is None else dict(entry.new),
        request_id=entry.request_id,
    )
