"""The audit of an archived sale: from its files alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from flashsale.domain.archives import PROMISES, Judge
from flashsale.usecases.findings import Checked, found

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from flashsale.domain.archives import Document, FileFacts, Manifest

WHOLE = "Each file is there, with the size, the lines and the digests that the manifest names."


class ArchiveRefused(Exception):
    """Base: the command ends with this line."""


class UnreadableArchive(ArchiveRefused):
    """A folder has no archive that this release can read; the text says what is the matter."""


class ArchiveFiles(Protocol):
    """The files of one archived sale, in a folder. A file gets its name when it is whole and on the disk."""

    folder: Path

    @property
    def place(self) -> str:
        """The machine and the folder."""
        ...

    def locked(self) -> AbstractContextManager[None]:
        """Keep other runs out of the folder, which is made if it is not there.

        Raises:
            ArchiveRefused: if another run works in it.
        """
        ...

    def manifest(self) -> Manifest | None:
        """Read the manifest; None if there is none.

        Raises:
            UnreadableArchive: if it cannot be read.
        """
        ...

    def write_lines(self, name: str, lines: Sequence[str]) -> FileFacts:
        """Write lines, compressed, and read the file back.

        Raises:
            OSError: if the disk is full, for example, or does not have what was written.
        """
        ...

    def write_product(self, document: str) -> FileFacts:
        """Write the document of the product."""
        ...

    def write_manifest(self, manifest: Manifest) -> None:
        """Write the manifest, which makes the files an archive."""
        ...

    def is_whole(self, facts: FileFacts) -> bool:
        """Whether a file has the size, the lines and the digests that are named."""
        ...

    def product(self, manifest: Manifest) -> Document:
        """Read the document of the product.

        Raises:
            UnreadableArchive: if it cannot be read.
        """
        ...

    def documents(self, facts: FileFacts) -> Iterator[Document]:
        """Read a file's lines.

        Raises:
            UnreadableArchive: if one cannot be read.
        """
        ...


class CheckArchive:
    """The use case."""

    def __init__(self, files: ArchiveFiles) -> None:
        """Check these files."""
        self._files = files

    @property
    def folder(self) -> Path:
        """The folder of the files."""
        return self._files.folder

    def __call__(self, show: Callable[[str, int, int], None] = lambda *_: None) -> list[Checked]:
        """Check every promise; `show` hears how many orders of how many were judged.

        Raises:
            UnreadableArchive: if the folder has no manifest, or one that this release cannot read.
        """
        manifest = self._files.manifest()
        if manifest is None:
            raise UnreadableArchive(f"{self._files.folder} has no archive that is whole: it has no manifest.")
        facts = [manifest.product, *(one for part in manifest.parts for one in (part.orders, part.messages))]
        broken = [one.name for one in facts if not self._files.is_whole(one)]
        findings = [found("A0", WHOLE, len(facts), broken)]
        if broken:
            return findings
        judge = Judge(product=self._files.product(manifest))
        for part in manifest.parts:
            for document in self._files.documents(part.orders):
                judge.add(document)
            show("judged", judge.orders, manifest.orders)
        judge.end(manifest.totals)
        return findings + [
            found(rule, promise, judge.orders, judge.bad.get(rule, ())) for rule, promise in PROMISES.items()
        ]
