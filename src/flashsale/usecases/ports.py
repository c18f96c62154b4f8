"""What the use cases need from outside, as Protocols; `adapters/` implements them, `bootstrap.py` wires them.

An adapter raises `Unavailable` when its server is away or too slow, and nothing else on purpose.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from datetime import datetime
    from uuid import UUID

    from flashsale.domain.gate import Admitted, GateReturn, GateState, Lease
    from flashsale.domain.orders import Order, OrderStatus
    from flashsale.domain.products import LiveStock, NewProduct, Product, ProductChange
    from flashsale.domain.requests import Accepted, AdminRequest, BuyRequest, KeptAnswer, Proposal, Verdict
    from flashsale.domain.users import Role, User


# --- the gate -------------------------------------------------------------------------------------------------------


class Gate(Protocol):
    """The admission filter: says no cheaply, and is never the truth."""

    @property
    def away(self) -> bool:
        """Whether the gate cannot be reached just now."""
        ...

    async def admit(self, product: Product, order_id: UUID, request: BuyRequest) -> Admitted:
        """Check rate, running requests of the same key, limit and stock, and lease the units, in one step."""
        ...

    def settle(self, product_id: int, order_id: UUID) -> None:
        """Drop a lease because Postgres decided and keeps the units; rides on the next batch."""
        ...

    def drop(self, product_id: int, order_id: UUID, *, visible: int) -> None:
        """Drop a lease for which Postgres has too few units, and return the few; rides on the next batch."""
        ...

    def give_back(self, product_id: int, order_id: UUID, *, held: int = 0) -> None:
        """Return the units of a lease whose proposal is void; `held`: units of the buyer that the gate must know of."""
        ...

    async def load(self, product_id: int, *, epoch: int, stock: int) -> bool:
        """Install epoch and stock and drop everything older. False if the gate has a newer epoch."""
        ...

    async def state(self, product_id: int, epoch: int) -> GateState:
        """Read what the gate holds, compared with Postgres' epoch."""
        ...

    async def states(self, epochs: Mapping[int, int]) -> dict[int, GateState]:
        """Read what the gate holds for several products, compared with their epochs, in few round trips."""
        ...

    async def overdue_leases(self, product_id: int, *, limit: int) -> Sequence[Lease]:
        """Give leases past their deadline by the gate's own clock."""
        ...

    async def return_units(self, product_id: int, returns: Sequence[GateReturn]) -> bool:
        """Count released units, all of one epoch, as free again: each order once. False: the gate has another epoch."""
        ...


# --- the truth ------------------------------------------------------------------------------------------------------


class Seen(NamedTuple):
    """What stood at one instant."""

    free: int
    """Free units of the product."""
    verdict: Verdict | None
    """REPLAYED or KEY_REUSED if an order stands under the request's key."""


class CommitUnknown(Exception):
    """The connection was lost while the transaction may have been committing."""


class PoisonBatch(Exception):
    """Postgres will refuse this batch however often it is sent; nothing was changed."""

    def __init__(self, problem: str, *, unknown_user: bool) -> None:
        """Set the text of the database's error; `unknown_user`: a proposal's user does not exist."""
        super().__init__(problem)
        self.unknown_user = unknown_user


class Acceptance(Protocol):
    """The accept transaction and what belongs to it."""

    async def accept(self, proposals: Sequence[Proposal]) -> Sequence[Verdict]:
        """Make orders of a batch in one transaction; one verdict per proposal, in order.

        Raises:
            CommitUnknown: if nobody can tell whether it was committed.
            PoisonBatch: if it can never be committed; part of it may.
            Unavailable: if it certainly was not.
        """
        ...

    async def void(self, order_ids: Sequence[UUID], *, patience_s: float | None = None) -> dict[UUID, bool]:
        """Give proposals up; True for each that is void now, False for each that is an order.

        Ids whose insert is in flight for longer than `patience_s` (None: as long as locks are waited for) are left out.
        """
        ...

    async def look(self, requests: Sequence[BuyRequest]) -> Sequence[Seen]:
        """Look requests up by (user, key), with the free units at the same instant."""
        ...

    async def free(self, product_ids: Sequence[int]) -> Sequence[int]:
        """Read the free units of products; those of claims that are not committed are among them."""
        ...

    async def held(self, buyers: Sequence[tuple[int, UUID]]) -> Sequence[int]:
        """Read how many units of (product, user) count for the user's limit."""
        ...

    async def limit_ids(self, user_ids: Sequence[UUID]) -> dict[UUID, UUID]:
        """Return the identities that a limit per e-mail root counts, of the users that there are."""
        ...

    async def accepted(self, order_ids: Sequence[UUID]) -> dict[UUID, Accepted]:
        """Return the contents of the 202 of each id that is an order."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Swept:
    """What a sweep did."""

    expired: int
    deferred: int
    """Orders that got a new job."""
    busy: frozenset[int]
    """Products of which orders stay due, because a lock that their expiry needs is taken."""


class Orders(Protocol):
    """Orders after their 202."""

    async def get_many(self, order_ids: Sequence[UUID]) -> dict[UUID, Order]:
        """Read orders by id; unknown ids are left out."""
        ...

    async def process(self, order_ids: Sequence[UUID], *, payment_due_s: float) -> dict[UUID, OrderStatus]:
        """Move queued orders to awaiting payment and defer their payment jobs.

        Gives those looked at; one that is still queued does not own its units and must end as failed.
        """
        ...

    async def end(self, order_ids: Sequence[UUID], status: OrderStatus) -> Sequence[UUID]:
        """End orders before any payment as expired, cancelled or failed. Returns the orders that ended."""
        ...

    async def request_payment(self, order_id: UUID, *, due_s: float) -> bool:
        """Defer the payment of an order that waits for its buyer; False if it does not wait."""
        ...

    async def due(self, *, limit: int) -> Sequence[tuple[UUID, int]]:
        """Read the orders that are due, those that were due first, with their products; none that is postponed."""
        ...

    async def sweep(self, order_ids: Sequence[UUID], *, due_s: float, patience_s: float | None) -> Swept:
        """Wake due orders; waits for locks only with a patience, which is meant for orders of one product."""
        ...

    async def postpone(self, order_id: UUID, *, job: str, problem: str, pause_s: float, pause_max_s: float) -> int:
        """Put an order off that Postgres refused to move; returns how often it was refused in its state."""
        ...

    async def count_postponed(self) -> int:
        """Count the orders that were refused and have not moved since."""
        ...

    async def admin_list(
        self, *, product_id: int | None, status: OrderStatus | None, before: UUID | None, limit: int
    ) -> Sequence[Order]:
        """List orders, newest first, from before an order id."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveEpoch:
    """What Postgres counts of a product, and under which epoch; two that are equal tell of no change in between."""

    product_id: int
    epoch: int
    free: int
    version: int


class GateBooks(Protocol):
    """Postgres' data about the gate: epochs, free units, and the returns that the gate has not counted."""

    async def live(self) -> Sequence[LiveEpoch]:
        """Read epoch and live stock of every product."""
        ...

    async def begin_load(self, product_id: int, *, seen_epoch: int) -> tuple[int, int] | None:
        """Raise the epoch and read the free count; None if the epoch is another by now."""
        ...

    async def epoch_and_free(self, product_id: int) -> tuple[int, LiveStock] | None:
        """Read the epoch and the live stock, now."""
        ...

    async def owed(self, product_ids: Sequence[int]) -> dict[int, int]:
        """Count, per product, free units without those whose return is on its way."""
        ...

    async def returns(self, *, limit: int, each: int | None = None, but: Collection[int] = ()) -> Sequence[GateReturn]:
        """Read returns that the gate has not counted: at most `each` per product, none of the products in `but`."""
        ...

    async def forget_returns(self, order_ids: Sequence[UUID]) -> None:
        """Forget returns that the gate has counted."""
        ...


class Products(Protocol):
    """Products and their live stock."""

    async def all(
        self, product_ids: Sequence[int] | None = None
    ) -> Sequence[tuple[Product, float | None, float | None]]:
        """Read every product, or some, with seconds until start and end by the database's clock (None: open)."""
        ...

    async def stocks(self, product_ids: Sequence[int] | None = None) -> Sequence[LiveStock]:
        """Read the free count and version of every product, or of some."""
        ...

    async def create(self, product: NewProduct, request: AdminRequest | None = None) -> Product:
        """Create a product whose units have no rows yet.

        This and the next three, under the key of a `request`, are carried out once; refusals are not kept.

        Raises:
            KeyReused: if the key belongs to another request.
            OutcomeUnknown: if nobody can tell whether it was created.
            Unavailable: if it certainly was not.
        """
        ...

    async def change(
        self,
        product_id: int,
        wanted: ProductChange,
        *,
        unless_changed_since: Collection[datetime] | None = None,
        request: AdminRequest | None = None,
    ) -> bool:
        """Change a product under its exclusive lock; False if there is none.

        Raises:
            StaleChange: if it was changed after each of the instants.
        """
        ...

    async def set_allotment(
        self, product_id: int, allotment: int, request: AdminRequest | None = None
    ) -> tuple[str, int]:
        """Set how many units exist: `changed`, `unchanged`, `too_small` or `unknown`, and the claimed units."""
        ...

    async def change_allotment(self, product_id: int, by: int, request: AdminRequest | None = None) -> tuple[str, int]:
        """Add to how many units exist: as `set_allotment`, or `too_large`."""
        ...

    async def open_pools(self, *, ahead: int, limit: int) -> Sequence[int]:
        """List products that want rows of units made (fewer than `ahead` are left) or deleted, most urgent first."""
        ...

    async def tend_units(self, product_id: int, *, most: int) -> int:
        """Make up to `most` rows that are missing, or delete as many that are too many: how many were made."""
        ...

    async def waiting_orders(self) -> dict[int, int]:
        """Count, per product, the orders that wait for a worker (any non-final state but waiting for the buyer)."""
        ...


class AdminAnswers(Protocol):
    """Answers to administrators' requests under a key, for a day."""

    async def kept(self, request: AdminRequest) -> KeptAnswer | None:
        """Return the answer that is kept; None if none is.

        Raises:
            KeyReused: if the key belongs to another request.
        """
        ...

    async def keep(self, request: AdminRequest, answer: KeptAnswer) -> KeptAnswer:
        """Keep an answer unless one is there; returns the one that is."""
        ...


class Users(Protocol):
    """Accounts."""

    async def create(self, *, name: str, email: str, password_hash: str | None, role: Role) -> User:
        """Create an account.

        Raises:
            EmailTaken: if the email is in use, in whatever form.
        """
        ...

    async def credentials(self, email: str) -> tuple[User, str | None] | None:
        """Read an account and its password hash by email, in whatever form (`domain.emails.email_key`)."""
        ...

    async def administrators(self) -> Sequence[str]:
        """Read the emails of the administrators, the first thousand."""
        ...

    async def account(self, user_id: UUID) -> User | None:
        """Read an account by id."""
        ...

    async def set_password(self, user_id: UUID, password_hash: str, *, generation: int | None = None) -> int | None:
        """Replace an account's password hash, if it is of this generation; returns the new generation, None if not."""
        ...

    async def set_role(self, user_id: UUID, role: Role) -> None:
        """Return an account a role."""
        ...

    async def generations(self, user_ids: Sequence[UUID]) -> dict[UUID, int]:
        """Read the generations of accounts, without those that are 0."""
        ...

    async def raise_generation(self, user_id: UUID, *, generation: int | None = None) -> int | None:
        """End the tokens of an account, if it is of this generation; returns the new generation, None if not."""
        ...

    async def create_buyers(self, count: int, *, prefix: str) -> Sequence[UUID]:
        """Create buyers without a password in bulk; a repetition gives the same ones."""
        ...


# --- the payment gateway --------------------------------------------------------------------------------------------
