"""What the use cases need from outside, as Protocols; `adapters/` implements them, `bootstrap/` wires them.

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
    from flashsale.domain.requests import Accepted, AdminRequest, BuyRequest, Held, KeptAnswer, Proposal, Verdict
    from flashsale.domain.traces import Origin
    from flashsale.domain.trail import Author
    from flashsale.domain.users import Role, User


# --- the gate -------------------------------------------------------------------------------------------------------


class Gate(Protocol):
    """The admission filter: it refuses cheaply, and never decides that a unit is sold."""

    def away(self, product_id: int) -> bool:
        """Whether the server with a product's gate cannot be reached at present."""
        ...

    async def admit(self, product: Product, order_id: UUID, request: BuyRequest) -> Admitted:
        """Check rate, running requests of the same key, limit and stock, and lease the units, in one step."""
        ...

    def settle(self, product_id: int, order_id: UUID) -> None:
        """Drop a lease because Postgres decided and keeps the units; sent with the next batch."""
        ...

    def drop(self, product_id: int, order_id: UUID, *, visible: int) -> None:
        """Drop a lease for which Postgres has too few units, and return the few; sent with the next batch."""
        ...

    def give_back(self, product_id: int, order_id: UUID, *, held: int = 0) -> None:
        """Return the units of a lease whose proposal is void; `held`: units that the buyer's orders hold."""
        ...

    async def load(self, product_id: int, *, epoch: int, stock: int) -> bool:
        """Write epoch and stock, and drop everything older. False if the gate has a newer epoch."""
        ...

    async def state(self, product_id: int, epoch: int) -> GateState:
        """Read the state of a product's gate under Postgres' epoch."""
        ...

    async def states(self, epochs: Mapping[int, int]) -> dict[int, GateState]:
        """Read the state of several products under their epochs, in few round trips."""
        ...

    async def overdue_leases(self, product_id: int, *, limit: int) -> Sequence[Lease]:
        """Return leases past their deadline on the gate's own clock."""
        ...

    async def return_units(self, product_id: int, returns: Sequence[GateReturn]) -> bool:
        """Count released units of one epoch as free again, for each order once. False: the gate has another epoch."""
        ...


# --- the truth ------------------------------------------------------------------------------------------------------


class Seen(NamedTuple):
    """A request's previous verdict and the free units, at one instant."""

    free: int
    """Free units of the product."""
    verdict: Verdict | None
    """REPLAYED or KEY_REUSED if an order stands under the request's key."""


class CommitUnknown(Exception):
    """The connection was lost while the transaction may have been committing."""


class PoisonBatch(Exception):
    """Postgres refuses this batch permanently; nothing was changed."""

    def __init__(self, problem: str, *, unknown_user: bool) -> None:
        """Set the text of the database's error; `unknown_user`: a proposal's user does not exist."""
        super().__init__(problem)
        self.unknown_user = unknown_user


class Acceptance(Protocol):
    """The accept transaction and the statements that belong to it."""

    async def accept(self, proposals: Sequence[Proposal]) -> Sequence[Verdict]:
        """Make orders of a batch in one transaction; one verdict per proposal, in order.

        Raises:
            CommitUnknown: if it is unknown whether the transaction committed.
            PoisonBatch: if this batch can never be committed; a part of it may be.
            Unavailable: if the transaction certainly did not commit.
        """
        ...

    async def void(self, order_ids: Sequence[UUID], *, patience_s: float | None = None) -> dict[UUID, bool]:
        """Void proposals: True for each that is void now, False for each that is an order.

        The result omits ids whose insert is still in flight after `patience_s` (None: the lock time-out).
        """
        ...

    async def look(self, requests: Sequence[BuyRequest]) -> Sequence[Seen]:
        """Look requests up by (user, key), with the free units at the same instant."""
        ...

    async def free(self, product_ids: Sequence[int]) -> Sequence[int]:
        """Read the free units of products, including units of claims that are not committed."""
        ...

    async def held(self, buyers: Sequence[tuple[int, UUID]]) -> Sequence[Held]:
        """Read how many units of each (product, user) count for the user's limit."""
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

        Returns these orders. One that is still queued does not own its units and must end as failed.
        """
        ...

    async def origins(self, order_ids: Sequence[UUID]) -> dict[UUID, Origin]:
        """Read the HTTP requests that made orders; orders without one are left out."""
        ...

    async def end(self, order_ids: Sequence[UUID], status: OrderStatus) -> Sequence[UUID]:
        """End orders before any payment as expired, cancelled or failed. Returns the orders that ended."""
        ...

    async def cancel(self, order_id: UUID, request: AdminRequest | None) -> bool:
        """Cancel an order for its buyer; False if it does not wait for payment."""
        ...

    async def request_payment(self, order_id: UUID, *, due_s: float) -> bool:
        """Defer the payment of an order that waits for its buyer; False if it does not wait."""
        ...

    async def due(self, *, limit: int) -> Sequence[tuple[UUID, int]]:
        """Read due orders with their products, the earliest due time first; postponed orders are left out."""
        ...

    async def sweep(self, order_ids: Sequence[UUID], *, due_s: float, patience_s: float | None) -> Swept:
        """Wake due orders. Waits for locks only if `patience_s` is given, which is meant for orders of one product."""
        ...

    async def postpone(self, order_id: UUID, *, job: str, problem: str, pause_s: float, pause_max_s: float) -> int:
        """Postpone an order that Postgres refused to move; returns how often it was refused in its state."""
        ...

    async def count_postponed(self) -> int:
        """Count refused orders that have not moved since."""
        ...

    async def of_buyer(self, user_id: UUID, *, before: UUID | None, limit: int) -> Sequence[Order]:
        """List the orders of an account, newest first, from before an order id."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveEpoch:
    """Postgres' count of a product's units, and its epoch; two equal values mean no change in between."""

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
        """Raise the epoch and read the free count; None if another process raised the epoch first."""
        ...

    async def epoch_and_free(self, product_id: int) -> tuple[int, LiveStock] | None:
        """Read the epoch and the live stock of a product."""
        ...

    async def owed(self, product_ids: Sequence[int]) -> dict[int, int]:
        """Count the free units of each product, without units whose return the gate has not counted."""
        ...

    async def returns(self, *, limit: int, each: int | None = None, but: Collection[int] = ()) -> Sequence[GateReturn]:
        """Read returns that the gate has not counted: at most `each` per product, and none of a product in `but`."""
        ...

    async def forget_returns(self, order_ids: Sequence[UUID]) -> None:
        """Delete returns that the gate has counted."""
        ...


class Products(Protocol):
    """Products and their live stock."""

    async def all(self, product_ids: Sequence[int] | None = None) -> Sequence[tuple[Product, datetime]]:
        """Read every product, or some, each with the time by the database's clock."""
        ...

    async def stocks(self, product_ids: Sequence[int] | None = None) -> Sequence[LiveStock]:
        """Read the free count and version of every product, or of some."""
        ...

    async def create(self, product: NewProduct, request: AdminRequest | None = None) -> Product:
        """Create a product whose units have no rows yet.

        This and the next three methods act once under the key of a `request`. Refusals are not stored.

        Raises:
            KeyReused: if the key belongs to another request.
            OutcomeUnknown: if it is unknown whether the product was created.
            Unavailable: if the product certainly was not created.
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
            StaleChange: if the product was changed after each of the instants.
            SaleOpen: if the price of a product on sale would rise.
        """
        ...

    async def set_allotment(
        self, product_id: int, allotment: int, request: AdminRequest | None = None
    ) -> tuple[str, int]:
        """Set the allotment. Returns `changed`, `unchanged`, `too_small` or `unknown`, and the claimed units."""
        ...

    async def change_allotment(self, product_id: int, by: int, request: AdminRequest | None = None) -> tuple[str, int]:
        """Add to the allotment; returns like `set_allotment`, or `too_large`."""
        ...

    async def close(self, product_id: int, request: AdminRequest | None = None) -> str:
        """End a sale now. Returns `closed`, `ended` (before), `not_started` or `unknown`.

        Raises:
            ProductArchived: if the product is archived.
        """
        ...

    async def archive(self, product_id: int, request: AdminRequest | None = None) -> str:
        """Archive a product. Returns `archived`, `before` (it was), what is open, or `unknown`.

        Open is the sale (`on_sale`), an order that is not final (`orders`), or a pending refund (`refunds`).
        """
        ...

    async def page(self, *, archived: bool, before: int | None, limit: int) -> Sequence[int]:
        """List products that are archived, or those that are not, the newest first, from before a product."""
        ...

    async def claimed(self, product_ids: Sequence[int]) -> Sequence[tuple[LiveStock, int]]:
        """Read the live stock of products, each with the units that orders hold."""
        ...

    async def open_pools(self, *, ahead: int, limit: int) -> Sequence[int]:
        """List products with fewer than `ahead` unit rows left, or with a surplus, the most urgent first."""
        ...

    async def tend_units(self, product_id: int, *, most: int) -> int:
        """Insert up to `most` missing unit rows, or delete as many surplus rows. Returns the number inserted."""
        ...

    async def waiting_orders(self) -> dict[int, int]:
        """Count, per product, the orders that wait for a worker (any non-final state but waiting for the buyer)."""
        ...


class AdminAnswers(Protocol):
    """Answers to administrators' requests, stored under their keys for a day."""

    async def kept(self, request: AdminRequest) -> KeptAnswer | None:
        """Return the answer that is stored under a key; None if there is none.

        Raises:
            KeyReused: if the key belongs to another request.
        """
        ...

    async def keep(self, request: AdminRequest, answer: KeptAnswer) -> KeptAnswer:
        """Store an answer, unless the key has one; returns the answer that is stored."""
        ...


class Users(Protocol):
    """Accounts."""

    async def create(
        self, *, name: str, email: str, password_hash: str | None, role: Role, by: Author | None = None
    ) -> User:
        """Create an account. `by`, here and below: whom the trail names; None: `system`.

        Raises:
            EmailTaken: if the email is in use, in any form.
        """
        ...

    async def credentials(self, email: str) -> tuple[User, str | None] | None:
        """Read an account and its password hash by email, in any form (`domain.emails.email_key`)."""
        ...

    async def administrators(self) -> Sequence[str]:
        """Read the emails of everybody who is no buyer, the first thousand."""
        ...

    async def staff(self) -> Sequence[User]:
        """Read the accounts of everybody who is no buyer, by email, the first thousand."""
        ...

    async def account(self, user_id: UUID) -> User | None:
        """Read an account by id."""
        ...

    async def set_password(
        self, user_id: UUID, password_hash: str, *, generation: int | None = None, by: Author | None = None
    ) -> int | None:
        """Replace an account's password hash if the account has this generation; returns the new one, None if not."""
        ...

    async def set_role(self, user_id: UUID, role: Role, *, by: Author | None = None) -> None:
        """Give an account a role."""
        ...

    async def generations(self, user_ids: Sequence[UUID]) -> dict[UUID, int]:
        """Read the generations of accounts, without those that are 0."""
        ...

    async def raise_generation(
        self, user_id: UUID, *, generation: int | None = None, by: Author | None = None
    ) -> int | None:
        """End the tokens of an account if it has this generation; returns the new generation, None if not."""
        ...

    async def note(self, user_id: UUID, by: Author) -> None:
        """Write to the trail what somebody did about an account without changing it."""
        ...

    async def create_buyers(self, count: int, *, prefix: str) -> Sequence[UUID]:
        """Create buyers without a password in bulk; a repetition returns the same buyers."""
        ...


# --- the payment gateway --------------------------------------------------------------------------------------------
