"""A buyer's request for units: its id, its idempotency key, its fingerprint, and what became of it."""

from __future__ import annotations

import enum
import hashlib
import re
from typing import TYPE_CHECKING, NamedTuple
from uuid import UUID

from flashsale.domain.errors import InvalidInput
from flashsale.domain.traces import Origin
from flashsale.domain.trail import Author

if TYPE_CHECKING:
    from datetime import datetime

    from flashsale.domain.money import Money
    from flashsale.domain.traces import Span

KEY_BYTES_MAX = 255
_KEY = re.compile(r"[\x21-\x7e]+(?: [\x21-\x7e]+)*")


def order_id_at(unix_ms: int, entropy: bytes, cell: int = 0) -> UUID:
    """Make an order id of a cell from the time in milliseconds and 10 random bytes.

    Cell 0 makes UUIDs of version 7 (RFC 9562, section 5.7). The others make version 8 with the same time in front and,
    after the version, the three decimal digits of the cell: `01890a5d-ac96-8012-...` is of cell 12.
    """
    value = (unix_ms & (2**48 - 1)) << 80 | int.from_bytes(entropy, "big")
    value = value & ~(0x3 << 62) | 0x2 << 62
    if cell:
        return UUID(int=value & ~(0xFFFF << 64) | (0x8000 | int(str(cell), 16)) << 64)
    return UUID(int=value & ~(0xF << 76) | 0x7 << 76)


def check_key(key: str) -> str:
    """Give the idempotency key back if it is printable ASCII of 1 to 255 bytes.

    Raises:
        InvalidInput: otherwise.
    """
    if len(key) > KEY_BYTES_MAX or _KEY.fullmatch(key) is None:
        raise InvalidInput(field="Idempotency-Key", problem="must be 1 to 255 printable ASCII characters")
    return key


class BuyRequest(NamedTuple):
    """What a buyer asks for."""

    user_id: UUID
    product_id: int
    quantity: int
    key: str | None
    """The client's idempotency key, scoped to the user."""
    expected_price: str | None = None
    """The price of a unit that the buyer saw, a decimal number as sent; None: the buyer takes any."""

    def fingerprint(self) -> bytes:
        """Return 16 bytes that differ (BLAKE2b) for requests of another product or quantity.

        The expected price is a condition of the first answer, not a part of the order, and the audit cannot know it.
        """
        return hashlib.blake2b(b"%d:%d" % (self.product_id, self.quantity), digest_size=16).digest()


class AdminRequest(NamedTuple):
    """An administrator's request."""

    user_id: UUID
    key: str | None
    """Its idempotency key, scoped to the administrator."""
    fingerprint: bytes
    """16 bytes that differ for requests of another path or with another body."""
    action: str = ""
    """The operation's name in the API reference."""
    origin: str = ""
    """The client's address."""
    request_id: str | None = None

    @property
    def author(self) -> Author:
        """Return whom the trail names."""
        return Author(user_id=self.user_id, action=self.action, origin=self.origin, request_id=self.request_id)


class KeptAnswer(NamedTuple):
    """The answer to such a request, which a repetition gets byte for byte."""

    status: int
    tag: str
    """Its entity tag."""
    body: bytes


class AcceptOutcome(enum.StrEnum):
    """What Postgres made of a proposed order. The values are those of `accept_orders_v5`."""

    ACCEPTED = "accepted"
    # The user's key, or the very order id, belongs to an order already: it is answered with that order.
    REPLAYED = "replayed"
    # The key belongs to an order with another fingerprint.
    KEY_REUSED = "key_reused"
    # This proposal can never become an order: it was voided, or it is too old.
    VOIDED = "voided"
    # Enough units are free, but others hold their locks just now.
    RETRY = "retry"
    # The product is being changed just now, or the proposal waited too long to be sent. Nothing was decided.
    BUSY = "busy"
    # The lease is of an older loading of the gate.
    STALE_EPOCH = "stale_epoch"
    SOLD_OUT = "sold_out"
    LIMIT_REACHED = "limit_reached"
    # A unit costs something else than the buyer expected.
    PRICE_CHANGED = "price_changed"
    NOT_STARTED = "not_started"
    ENDED = "ended"
    PAUSED = "paused"
    UNKNOWN_PRODUCT = "unknown_product"
    UNKNOWN_USER = "unknown_user"


class Accepted(NamedTuple):
    """What a 202 says; a replay says the same, byte for byte."""

    order_id: UUID
    product_id: int
    product_name: str
    quantity: int
    unit_price: Money


class Proposal(NamedTuple):
    """A request on its way into Postgres under an order id."""

    order_id: UUID
    request: BuyRequest
    epoch: int | None
    """The lease's epoch; None without a lease (bypass)."""
    send_by_s: float = float("inf")
    """When, by this process' monotonic clock, it is too late to send it."""
    request_id: str | None = None
    """The id of the HTTP request, for log lines; nothing is decided by it."""
    expected_minor: int | None = None
    """The price of a unit without which nothing is bought; None: any."""
    span: Span | None = None
    """The span of the HTTP request; None: this process does not trace."""

    @property
    def origin(self) -> Origin:
        """Return what the order's row keeps of the request."""
        return Origin(self.request_id, None if self.span is None else self.span.context.traceparent)


class Verdict(NamedTuple):
    """What Postgres made of a proposal."""

    outcome: AcceptOutcome
    accepted: Accepted | None
    """What the 202 says, if an order stands."""
    visible: int = 0
    """Sold out: units that are free, or may be again."""
    held: int = 0
    """Limit reached: units that count for the buyer."""
    cools_until: datetime | None = None
    """Limit reached: until when units that the buyer did not pay for count, if the buyer's orders leave room."""


class Held(NamedTuple):
    """The units of a product that count for a buyer, and how many may."""

    units: int
    """Units that orders hold."""
    cooling: int = 0
    """Units that the buyer did not pay for, and whose cool-down has not passed."""
    cools_until: datetime | None = None
    """When the last of these cool-downs has passed."""
    limit: int | None = None
    """The product's limit; None: there is none."""
