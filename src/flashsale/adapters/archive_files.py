"""The files of an archived sale: lines of JSON, compressed, and a manifest that is written last."""

from __future__ import annotations

import fcntl
import gzip
import hashlib
import os
import socket
import zlib
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import msgspec

from flashsale.domain.archives import FORMAT, KIND, PROGRAM, FileFacts, Manifest
from flashsale.usecases.archive_check import ArchiveRefused, UnreadableArchive

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

MANIFEST, PRODUCT = "manifest.json", "product.json"

MANIFEST_BYTES_MAX = 64 * 2**20
"""A manifest of 10,000,000 orders has about a megabyte."""

LEVEL = 3
"""Of compression: a third of the time of the usual level, and files that are a tenth larger."""

BLOCK = 2**20


class FolderOfArchive:
    """Implements `usecases.archive_check.ArchiveFiles`."""

    def __init__(self, folder: Path, *, parent: str | None = None) -> None:
        """Work in this folder, which is made when the first file is written.

        `parent`: what look-ups name as the place of the folder that has this one; None: machine and path.
        """
        self.folder = folder
        self._parent = parent or f"{socket.gethostname()}:{folder.resolve().parent}"

    @property
    def place(self) -> str:
        """The machine and the folder."""
        return f"{self._parent}/{self.folder.name}"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other runs out of the folder; see the port. The lock ends with the process."""
        new = [folder for folder in (self.folder, *self.folder.parents) if not folder.exists()]
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for one in new:
            _keep_names(one.parent)
        folder = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            try:
                fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ArchiveRefused(f"Another run writes to {self.folder}: wait for its end.") from None
            yield
        finally:
            os.close(folder)

    def manifest(self) -> Manifest | None:
        """Read the manifest; see the port."""
        path = self.folder / MANIFEST
        if not path.is_file():
            return None
        if path.stat().st_size > MANIFEST_BYTES_MAX:
            raise UnreadableArchive(f"{path} is no manifest of an archive: it is too large.")
        try:
            told = msgspec.json.decode(path.read_bytes())
            if not isinstance(told, dict) or (told.get("program"), told.get("kind")) != (PROGRAM, KIND):
                raise UnreadableArchive(f"{path} is no manifest of `flashsale archive`.")
            if told.get("format") != FORMAT:
                raise UnreadableArchive(
                    f"{path} has format {told.get('format')}, and this release reads {FORMAT}: release "
                    f"{told.get('version')} wrote it."
                )
            manifest = msgspec.convert(told, Manifest)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise UnreadableArchive(f"{path} is damaged: {error}") from None
        for facts in (manifest.product, *(one for part in manifest.parts for one in (part.orders, part.messages))):
            if "/" in facts.name or facts.name.startswith(".") or "\0" in facts.name:
                raise UnreadableArchive(f"{path} names a file outside of its folder.")
        return manifest

    def write_lines(self, name: str, lines: Sequence[str]) -> FileFacts:
        """Write lines, compressed, and read the file back; see the port."""
        content = b"".join([line.encode() + b"\n" for line in lines])
        return self._write(name, gzip.compress(content, LEVEL, mtime=0))

    def write_product(self, document: str) -> FileFacts:
        """Write the document of the product."""
        return self._write(PRODUCT, document.encode() + b"\n")

    def write_manifest(self, manifest: Manifest) -> None:
        """Write the manifest, which makes the files an archive."""
        self._write(MANIFEST, msgspec.json.format(msgspec.json.encode(manifest), indent=2))

    def _write(self, name: str, content: bytes) -> FileFacts:
        """Write a file that gets its name when it is on the disk; return what the disk then has."""
        path, new = self.folder / name, self.folder / f"{name}.new"
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        new.rename(path)
        _keep_names(self.folder)
        facts = self._facts(name)
        if facts is None or facts.file_digest != hashlib.sha256(content).hexdigest():
            raise OSError(0, "does not have what was written", str(path))
        return facts

    def is_whole(self, facts: FileFacts) -> bool:
        """Whether a file has the size, the lines and the digests that are named."""
        return self._facts(facts.name) == facts

    def _facts(self, name: str) -> FileFacts | None:
        """Read what a file holds; None if there is no such file, or it cannot be decompressed."""
        path = self.folder / name
        digest, lines, last = hashlib.sha256(), 0, b"\n"
        try:
            with path.open("rb") as file:
                file_digest = hashlib.file_digest(file, "sha256").hexdigest()
            with gzip.open(path) if name.endswith(".gz") else path.open("rb") as content:
                while block := content.read(BLOCK):
                    digest.update(block)
                    lines += block.count(b"\n")
                    last = block[-1:]
            size = path.stat().st_size
        except (OSError, EOFError, zlib.error):
            return None
        if last != b"\n" and name != MANIFEST:
            return None
        return FileFacts(
            name=name, lines=lines, file_bytes=size, file_digest=file_digest, content_digest=digest.hexdigest()
        )

    def product(self, manifest: Manifest) -> dict[str, Any]:
        """Read the document of the product; see the port."""
        return self._decoded(self.folder / manifest.product.name, (self.folder / manifest.product.name).read_bytes())

    def documents(self, facts: FileFacts) -> Iterator[dict[str, Any]]:
        """Read a file's lines; see the port."""
        path = self.folder / facts.name
        with gzip.open(path) as file:
            for line in file:
                yield self._decoded(path, line)

    def _decoded(self, path: Path, text: bytes) -> dict[str, Any]:
        try:
            return msgspec.json.decode(text, type=dict[str, Any])
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise UnreadableArchive(f"{path} is damaged: {error}") from None


def _keep_names(folder: Path) -> None:
    """Write the names of a folder's files to the disk."""
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
