"""The local stack's mail server: it stores every e-mail as a file and sends none on."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import time
import uuid
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable
    from pathlib import Path

KEPT = 1000
"""The newest e-mails that are kept."""

SIZE_MAX = 1_000_000


def installed() -> bool:
    """Say whether the server's library, which belongs to the group `local`, is installed."""
    return importlib.util.find_spec("aiosmtpd") is not None


class Mailbox:
    """A handler of aiosmtpd that writes `<time>-<id>.eml` files into a folder."""

    def __init__(self, folder: Path, *, kept: int = KEPT) -> None:
        """Keep the newest `kept` e-mails there."""
        self._folder = folder
        self._kept = kept

    async def handle_DATA(self, server: object, session: object, envelope: Any) -> str:  # noqa: N802, ARG002 - aiosmtpd's name
        """Store an e-mail with its recipients in front; the file appears complete or not at all."""
        head = "".join(f"X-Envelope-To: {one}\r\n" for one in envelope.rcpt_tos)
        name = f"{time.time_ns():020d}-{uuid.uuid4().hex[:8]}"
        part = self._folder / f".{name}.part"
        part.write_bytes(head.encode() + envelope.content)
        part.rename(self._folder / f"{name}.eml")
        for old in sorted(self._folder.glob("*.eml"))[: -self._kept]:
            with contextlib.suppress(FileNotFoundError):
                old.unlink()
        return "250 kept"


async def run_mailbox(folder: Path, *, sock: socket.socket, ready: Callable[[], None], stop: asyncio.Event) -> None:
    """Take e-mails until `stop`."""
    from aiosmtpd.smtp import SMTP

    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    handler = Mailbox(folder)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: SMTP(handler, hostname="localhost", data_size_limit=SIZE_MAX, enable_SMTPUTF8=True), sock=sock
    )
    ready()
    await stop.wait()
    server.close()
