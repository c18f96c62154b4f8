"""The file of a backup: a tar archive with a manifest, which names each part with its size and checksum."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tarfile
import time
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from flashsale import __version__
from flashsale.local.children import ChildFailed

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

PROGRAM, FORMAT = "flashsale", 1
MANIFEST = "manifest.json"
DUMP, LEDGER, SECRETS = "database.dump", "gateway-ledger.jsonl", "secrets.json"
PARTS = (DUMP, LEDGER, SECRETS)
"""A backup of the local stack has all; that of a database on a server has the dump, and may have the ledger."""

MANIFEST_BYTES_MAX = 65_536


@dataclass(frozen=True, slots=True, kw_only=True)
class Schema:
    """The schema of a database."""

    revision: str
    """The newest migration."""
    digest: str
    """SHA-256 of the definitions of all objects."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What a backup is: the fields of `manifest.json`."""

    program: str
    format: int
    version: str
    """The release that made the backup."""
    made_at: str
    """When, in UTC; the dump contains nothing newer, and nothing that was committed earlier is missing."""
    postgres: str
    """The version of the server."""
    schema: Schema
    parts: Mapping[str, Mapping[str, Any]]
    """Size and SHA-256 by the name of the part."""


def now() -> str:
    """Return the time of a backup that begins now."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def pack(
    file: Path, folder: Path, parts: Collection[str] = PARTS, *, made_at: str, postgres: str, schema: Schema
) -> None:
    """Write a backup of the parts in `folder`. It gets its name once it is whole and on the disk.

    Raises:
        OSError: if it cannot be written; no file is left then.
    """
    manifest = Manifest(
        program=PROGRAM,
        format=FORMAT,
        version=__version__,
        made_at=made_at,
        postgres=postgres,
        schema=schema,
        parts={name: _facts(folder / name) for name in parts},
    )
    (folder / MANIFEST).write_text(json.dumps(asdict(manifest), indent=2))
    new = file.with_name(f"{file.name}.new")
    try:
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as out, tarfile.open(fileobj=out, mode="w") as archive:
            for name in (MANIFEST, *parts):
                archive.add(folder / name, name)
        with new.open("rb") as written:
            os.fsync(written.fileno())
        new.rename(file)
    except BaseException:
        new.unlink(missing_ok=True)
        raise


def unpack(file: Path, folder: Path, *, revisions_to: str) -> Manifest:
    """Write the parts of a backup to `folder`, and return its manifest. `revisions_to`: the newest migration here.

    Raises:
        ChildFailed: if the file is no backup, a damaged one, or one that this release cannot read.
    """
    try:
        with tarfile.open(file, "r:") as archive:
            first = archive.next()
            if first is None or first.name != MANIFEST or first.size > MANIFEST_BYTES_MAX:
                raise ChildFailed(f"{file} is no backup of `flashsale backup`.")
            manifest = _read_manifest(file, json.loads(_opened(archive, MANIFEST).read()), revisions_to)
            for name in manifest.parts:
                path = folder / name
                path.touch(mode=0o600)
                with path.open("wb") as out:
                    shutil.copyfileobj(_opened(archive, name), out)
                if _facts(path) != manifest.parts[name]:
                    raise ChildFailed(f"{file} is a damaged backup: {name} does not have the checksum of the manifest.")
    except (tarfile.TarError, ValueError, EOFError) as error:
        raise ChildFailed(f"{file} is no backup of `flashsale backup`, or a damaged one: {error}") from None
    except (KeyError, TypeError, AttributeError) as error:
        raise ChildFailed(f"{file} is a damaged backup: {error} is missing or wrong.") from None
    return manifest


def _read_manifest(file: Path, told: dict[str, Any], revisions_to: str) -> Manifest:
    if told.get("program") != PROGRAM:
        raise ChildFailed(f"{file} is a backup of another program.")
    if told.get("format") != FORMAT:
        raise ChildFailed(f"{file} has format {told.get('format')}, and this release reads {FORMAT}: {_made_by(told)}")
    known = {field.name: told[field.name] for field in fields(Manifest)}
    if DUMP not in told["parts"] or not set(told["parts"]) <= set(PARTS):
        raise ChildFailed(f"{file} is a damaged backup: its manifest does not name the parts of one.")
    manifest = Manifest(**{**known, "schema": Schema(**told["schema"])})
    if manifest.schema.revision > revisions_to:
        raise ChildFailed(
            f"{file} has a database of revision {manifest.schema.revision}, newer than this release's {revisions_to}: "
            f"{_made_by(told)}"
        )
    return manifest


def _made_by(told: Mapping[str, Any]) -> str:
    return f"restore it with release {told.get('version')}, which made it."


def _opened(archive: tarfile.TarFile, name: str) -> IO[bytes]:
    member = archive.extractfile(name)
    if member is None:  # a folder or a link
        raise KeyError(name)
    return member


def _facts(path: Path) -> dict[str, Any]:
    with path.open("rb") as part:
        digest = hashlib.file_digest(part, "sha256").hexdigest()
    return {"bytes": path.stat().st_size, "sha256": digest}


def present(data_dir: Path) -> Sequence[str]:
    """Name the data in a stack's directory that a restore would replace."""
    return [name for name in ("postgres/cluster", LEDGER, SECRETS) if (data_dir / name).exists()]
