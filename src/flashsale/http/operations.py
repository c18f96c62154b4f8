"""What a route says of itself: its operation in the OpenAPI document, declared next to its handler."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Literal

from flashsale.domain.users import STAFF, Role
from flashsale.http.fields import ID, ORDER_ID, USER_ID

JSON = "application/json"


PLAIN_TEXT = r"^[^\x00-\x1f\x7f]+$"
"""Text without control characters."""


def plain_text(longest: int) -> dict[str, object]:
    """Return the schema of 1 to `longest` characters, none of them a control character."""
    return {"type": "string", "minLength": 1, "maxLength": longest, "pattern": PLAIN_TEXT}


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """A parameter of the path, the query or the head."""

    name: str
    place: Literal["path", "query", "header"]
    schema: Mapping[str, object]
    description: str
    example: object
    required: bool = False


def page_of_orders(*, usual: int, most: int) -> tuple[Parameter, Parameter]:
    """Return the parameters of a list of orders: where its page begins, and its length: `usual`, or up to `most`."""
    return (
        Parameter(
            name="before",
            place="query",
            schema={"type": "string", "format": "uuid"},
            description="The last order id of the previous page.",
            example=ORDER_ID,
        ),
        Parameter(
            name="limit",
            place="query",
            schema={"type": "integer", "minimum": 1, "maximum": most, "default": usual},
            description="Maximum number of orders in a page.",
            example=usual,
        ),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """An answer that is no problem."""

    status: HTTPStatus
    description: str
    model: Any = None
    """What its JSON is; None: the body is of the types below, or there is none."""
    texts: Mapping[str, str] = field(default_factory=dict)
    """An example of the body for each media type that is not JSON."""
    events: Mapping[str, Any] = field(default_factory=dict)
    """What the data of an event is, by the event's name, if it is a stream; one without a name is a `message`."""
    headers: tuple[str, ...] = ()
    """Names of headers, without those that every answer has; `openapi.HEADERS` describes them."""
    may_have: tuple[str, ...] = ()
    """Headers that not each such answer has."""
    links: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    """By operation: its parameters, or its body under `body`, as expressions of what was answered."""


ROLES: Mapping[str | None, frozenset[Role]] = {
    "staff": STAFF,
    "support": frozenset({Role.SUPPORT, Role.ADMIN}),
    "operator": frozenset({Role.OPERATOR, Role.ADMIN}),
    "admin": frozenset({Role.ADMIN}),
}
"""Who may call an operation of administration, by the caller that it names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """A method of a path."""

    name: str
    """Stable: generated clients name a function after it."""
    summary: str
    description: str
    tag: str
    gives: tuple[Given, ...]
    codes: tuple[str, ...] = ()
    """Codes of the problems that it gives, without those that the edge gives on every path."""
    takes: Any = None
    """What its JSON body must be; None: it takes none."""
    parameters: tuple[Parameter, ...] = ()
    """Those of the query and the head; the path names its own."""
    caller: Literal["buyer", "staff", "support", "operator", "admin", "stream"] | None = None
    """Whose token it asks for: anybody's, the least role of staff, or one that opens a stream; None: it is public."""
    in_parts: bool = False
    """Whether the answer is sent part by part, without a tag of the whole."""
    limit: str | None = None
    """Name of the limit, an attribute of `limits.Limits`, under which its requests are counted."""

    @property
    def roles(self) -> frozenset[Role]:
        """Return the roles of staff that may call it; empty: it is no call of administration."""
        return ROLES.get(self.caller, frozenset())


SERVERS = ("unavailable", "other_schema", "internal")
"""Codes of every operation that asks Postgres or the gate."""

PATH = {
    "product_id": Parameter(
        name="product_id",
        place="path",
        schema={"type": "integer", "minimum": 1, "maximum": 2**31 - 1},
        description="The product's id.",
        example=ID,
        required=True,
    ),
    "order_id": Parameter(
        name="order_id",
        place="path",
        schema={"type": "string", "format": "uuid"},
        description="The order's id, in lower case.",
        example=ORDER_ID,
        required=True,
    ),
    "number": Parameter(
        name="number",
        place="path",
        schema={"type": "integer", "minimum": 1, "maximum": 2**31 - 1},
        description="Which refund of the order.",
        example=1,
        required=True,
    ),
    "user_id": Parameter(
        name="user_id",
        place="path",
        schema={"type": "string", "format": "uuid"},
        description="The account's id, in lower case.",
        example=USER_ID,
        required=True,
    ),
    "provider": Parameter(
        name="provider",
        place="path",
        schema={"type": "string", "pattern": "^[a-z]+$"},
        description="The payment provider.",
        example="stripe",
        required=True,
    ),
    "code": Parameter(
        name="code",
        place="path",
        schema={"type": "string", "pattern": "^[a-z_]+$"},
        description="The code of a problem document.",
        example="sold_out",
        required=True,
    ),
}
"""The parameters of paths."""
