"""Archive a sale: write all of its rows to files, judge the files, then delete the rows, a part at a time.

At each instant each row is in a table, or in a file that was read back and whose digest Postgres has. The rows of a
part leave the tables in one transaction, which reads them once more, compares them with the digest of the file, and
notes the digest. A run that was killed is finished by the same command.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol
from uuid import UUID

from flashsale import __version__
from flashsale.domain.archives import FORMAT, KIND, PROGRAM, Manifest, Part
from flashsale.domain.errors import ProductNotFound
from flashsale.domain.products import PRODUCT_ID_MAX
from flashsale.usecases.archive_check import ArchiveRefused, CheckArchive

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime, timedelta

    from flashsale.domain.archives import FileFacts, Total
    from flashsale.domain.trail import Author
    from flashsale.usecases.archive_check import ArchiveFiles

ORDERS_PER_PART = 5_000
"""Orders in one file, which one transaction deletes: about a second."""

REST = 5_000
"""Most other rows that one transaction deletes."""


class NotArchived(ArchiveRefused):
    """A sale cannot be archived now; the text says why. Nothing was lost."""


class NotYet(NotArchived):
    """The same command may archive it later, without a person."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """What Postgres knows of an archive whose rows leave the tables."""

    place: str
    digests: Sequence[bytes]
    """Of each part whose rows are gone, in order."""
    orders: int
    begun_at: datetime
    ended_at: datetime | None
    """When the last row was gone; None: some are left."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sale:
    """An archived product with the orders that the tables have."""

    name: str
    archived_at: datetime | None
    orders: int
    moved_at: datetime | None
    """When anything of the sale changed last."""
    now: datetime
    kept: Kept | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """Orders as lines of JSON, and what others were told of them."""

    orders: Sequence[str]
    messages: Sequence[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Archived:
    """What a run did."""

    product_id: int
    place: str
    orders: int
    """In the files."""
    removed: int
    """Orders whose rows left the tables in this run."""
    before: bool
    """Whether an earlier run had archived the sale; then this one did nothing."""


class SaleRows(Protocol):
    """The rows of a sale in Postgres."""

    async def sale(self, product_id: int) -> Sale | None:
        """Read a product and what is known of its archive."""
        ...

    async def due(self) -> Sequence[int]:
        """Read the archived products whose rows are in the tables still."""
        ...

    async def open_matters(self, product_id: int) -> Sequence[tuple[str, int]]:
        """Count what is open, by kind."""
        ...

    async def next_orders(self, product_id: int, after: UUID, limit: int) -> Sequence[UUID]:
        """Read the ids of final orders after an id, in order."""
        ...

    async def rows(self, order_ids: Sequence[UUID]) -> Rows:
        """Read all rows of orders, on one snapshot."""
        ...

    async def product(self, product_id: int) -> str:
        """Read the rows of a product that belong to no order, as one JSON document."""
        ...

    async def totals(self, product_id: int) -> Sequence[Total]:
        """Sum the orders, those in files among them."""
        ...

    async def schema_revision(self) -> str:
        """Read the newest migration."""
        ...

    async def begin(self, product_id: int, place: str, orders: int, author: Author) -> None:
        """Note where the files are, before the first rows leave; once. The trail names the author."""
        ...

    async def remove(
        self, product_id: int, number: int, order_ids: Sequence[UUID], digest: bytes, messages: bytes
    ) -> bool:
        """Delete the orders of part `number` with all of their rows, and note the digest, in one transaction.

        Returns False, and deletes nothing, if the rows are not those of the digests of the orders and of the messages,
        if anything of the orders is open, or if another part is the next.
        """
        ...

    async def forget_rest(self, product_id: int, limit: int) -> int:
        """Delete rows of a product that belong to no order, at most `limit` of a kind; returns how many."""
        ...

    async def end(self, product_id: int) -> bool:
        """Note that the last row is gone; False if an order is left."""
        ...


class ArchiveSale:
    """The use case."""

    def __init__(self, rows: SaleRows, files: ArchiveFiles, *, quiet: timedelta, author: Author) -> None:
        """Keep the parts. A sale of which anything changed less than `quiet` ago is refused."""
        self._rows = rows
        self._files = files
        self._quiet = quiet
        self._author = author

    async def __call__(
        self, product_id: int, *, keep: bool = False, show: Callable[[str, int, int], None] = lambda *_: None
    ) -> Archived:
        """Archive a sale; with `keep` only write and judge the files. `show` hears what is done: orders of how many.

        Raises:
            ProductNotFound: if there is no such product.
            NotArchived: if something of the sale is open or changed, or the files are not whole; run again later.
            Unavailable: if Postgres is away; a repetition goes on.
        """
        sale = await self._rows.sale(product_id) if 1 <= product_id <= PRODUCT_ID_MAX else None
        if sale is None:
            raise ProductNotFound(product_id)
        kept, place = sale.kept, self._files.place
        if kept is not None and kept.ended_at is not None:
            return Archived(product_id=product_id, place=kept.place, orders=kept.orders, removed=0, before=True)
        await self._refuse_open(product_id, sale)
        with self._files.locked():
            done = self._parts_of(product_id, kept)
            manifest = await self._write(product_id, sale, done, show)
            self._judge(product_id, show)
            removed = 0
            if not keep:
                await self._rows.begin(product_id, place, manifest.orders, self._author)
                removed = await self._remove(product_id, manifest, len(done), show)
        return Archived(product_id=product_id, place=place, orders=manifest.orders, removed=removed, before=False)

    async def _refuse_open(self, product_id: int, sale: Sale) -> None:
        if sale.archived_at is None:
            raise NotArchived(
                f"Product {product_id} is on the lists: run `flashsale product archive {product_id}` first."
            )
        if matters := await self._rows.open_matters(product_id):
            told = ", ".join(f"{number:,} {what}" for what, number in matters)
            raise NotYet(f"The sale of product {product_id} is open: {told}.")
        if sale.moved_at is not None and sale.now - sale.moved_at < self._quiet:
            raise NotYet(
                f"The sale of product {product_id} changed last on {sale.moved_at:%Y-%m-%d}, and has to be quiet for "
                f"{self._quiet.days:,} days (FLASHSALE_ARCHIVE__QUIET_DAYS)."
            )

    def _parts_of(self, product_id: int, kept: Kept | None) -> tuple[Part, ...]:
        """Return the parts of the folder whose rows are gone."""
        if kept is None or not kept.digests:
            return ()
        found = self._files.manifest()
        parts = () if found is None or found.product_id != product_id else found.parts[: len(kept.digests)]
        if [bytes.fromhex(part.orders.content_digest) for part in parts] != list(kept.digests):
            raise NotArchived(f"The first rows of product {product_id} went to {kept.place}: give that folder.")
        return parts

    async def _refuse_foreign(self, product_id: int, sale: Sale, done: tuple[Part, ...], before: Manifest) -> None:
        """Refuse a folder whose files have orders that this database does not know: another shop wrote them.

        The digests of `done` prove their parts.
        """
        here = sum(part.orders.lines for part in done) + sale.orders
        told = before.product_id, before.product_name
        known = told == (product_id, sale.name) and before.orders <= here
        if known and len(before.parts) > len(done):
            first, last = before.parts[len(done)].first, before.parts[-1].last
            follows = done[-1].last if done else UUID(int=0)
            known = [first, last] == [
                *await self._rows.next_orders(product_id, follows, 1),
                *await self._rows.next_orders(product_id, UUID(int=last.int - 1), 1),
            ]
        if not known:
            raise NotArchived(
                f"{self._files.folder} has {before.orders:,} orders of product {before.product_id} of another "
                f"database, or some that this one lost; it has {here:,} of product {product_id}. Give another folder."
            )

    async def _write(
        self, product_id: int, sale: Sale, done: tuple[Part, ...], show: Callable[[str, int, int], None]
    ) -> Manifest:
        """Write the parts whose rows are in the tables, then the manifest."""
        before = self._files.manifest()
        if before is not None:
            await self._refuse_foreign(product_id, sale, done, before)
        known = () if before is None else before.parts
        parts, after, written = list(done), done[-1].last if done else UUID(int=0), 0
        while order_ids := await self._rows.next_orders(product_id, after, ORDERS_PER_PART):
            rows = await self._rows.rows(order_ids)
            if len(rows.orders) != len(order_ids):
                raise _changed(product_id)
            number, after = len(parts), order_ids[-1]
            facts = (
                self._kept_or_written(known, number, "orders", rows.orders),
                self._kept_or_written(known, number, "messages", rows.messages),
            )
            parts.append(Part(first=order_ids[0], last=after, orders=facts[0], messages=facts[1]))
            written += len(order_ids)
            show("written", written, sale.orders)
        manifest = Manifest(
            program=PROGRAM,
            kind=KIND,
            format=FORMAT,
            version=__version__,
            schema_revision=await self._rows.schema_revision(),
            product_id=product_id,
            product_name=sale.name,
            made_at=sale.now,
            product=await self._product(product_id, sale, before),
            parts=tuple(parts),
            totals=tuple(await self._rows.totals(product_id)),
        )
        self._files.write_manifest(manifest)
        return manifest

    async def _product(self, product_id: int, sale: Sale, before: Manifest | None) -> FileFacts:
        """Write the document of the product; keep it if its rows began to leave, which they do after the last order."""
        if sale.kept is not None and not sale.orders and before is not None and self._files.is_whole(before.product):
            return before.product
        return self._files.write_product(await self._rows.product(product_id))

    def _kept_or_written(self, known: tuple[Part, ...], number: int, kind: str, lines: Sequence[str]) -> FileFacts:
        """Keep the file of an earlier run that has these lines, or write it."""
        if number < len(known):
            facts: FileFacts = getattr(known[number], kind)
            if facts.content_digest == digest_of(lines).hex() and self._files.is_whole(facts):
                return facts
        return self._files.write_lines(f"{kind}-{number + 1:05}.jsonl.gz", lines)

    def _judge(self, product_id: int, show: Callable[[str, int, int], None]) -> None:
        findings = CheckArchive(self._files)(show)
        bad = [finding for finding in findings if finding.violations]
        if bad:
            told = ", ".join(f"{one.invariant} ({one.violations:,})" for one in bad)
            raise NotArchived(
                f"The files of product {product_id} violate {told}; nothing was deleted. "
                f"See `flashsale archive check {self._files.folder}`."
            )

    async def _remove(
        self, product_id: int, manifest: Manifest, done: int, show: Callable[[str, int, int], None]
    ) -> int:
        removed, left = 0, sum(part.orders.lines for part in manifest.parts[done:])
        for number, part in enumerate(manifest.parts[done:], done):
            after = manifest.parts[number - 1].last if number else UUID(int=0)
            order_ids = await self._rows.next_orders(product_id, after, part.orders.lines)
            digests = [bytes.fromhex(facts.content_digest) for facts in (part.orders, part.messages)]
            if not await self._rows.remove(product_id, number, order_ids, *digests):
                raise _changed(product_id)
            removed += part.orders.lines
            show("removed", removed, left)
        while await self._rows.forget_rest(product_id, REST):
            pass
        if not await self._rows.end(product_id):
            raise _changed(product_id)
        return removed


def _changed(product_id: int) -> NotArchived:
    return NotYet(
        f"Orders of product {product_id} changed, or another run archives them; each order is in the tables, or in the "
        "files. Run the same command again."
    )


def digest_of(lines: Sequence[str]) -> bytes:
    """Return the SHA-256 of lines, each with a newline at its end."""
    digest = hashlib.sha256()
    for line in lines:
        digest.update(line.encode())
        digest.update(b"\n")
    return digest.digest()
