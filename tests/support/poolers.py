"""Poolers in transaction mode in front of Postgres: PgBouncer, and a stand-in that gives every transaction another session."""

from __future__ import annotations

import asyncio
import os
import shutil
import struct
import tempfile
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from flashsale.local.access import free_port

PGBOUNCER = shutil.which("pgbouncer") or shutil.which("/usr/sbin/pgbouncer")
TAKEN = {"user", "database", "application_name", "client_encoding"}
"""Startup parameters that the stand-in takes."""

READY, END, ASKING = b"Z", b"X", {b"Q", b"S"}
SSL, CANCEL = 80_877_103, 80_877_102


@asynccontextmanager
async def pgbouncer(url, *, ignoring=False):
    """PgBouncer with two sessions of the server; gives the URL of the same database through it."""
    if PGBOUNCER is None:
        pytest.skip("needs PgBouncer: apt-get install pgbouncer")
    there, port = urlsplit(url), free_port()
    # PgBouncer refuses root, and the user nobody cannot enter the folders of another user.
    folder = Path(tempfile.mkdtemp(prefix="flashsale-pgbouncer-"))
    (folder / "users").write_text(f'"{there.username}" "{there.password}"\n')
    ignored = "statement_timeout,lock_timeout,idle_in_transaction_session_timeout,jit,enable_seqscan,enable_mergejoin"
    lines = [
        "[databases]",
        f"{there.path[1:]} = host={there.hostname} port={there.port}",
        "[pgbouncer]",
        f"listen_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =",
        f"auth_type = scram-sha-256\nauth_file = {folder}/users\nlogfile = {folder}/log",
        "pool_mode = transaction\ndefault_pool_size = 2\nmax_client_conn = 200",
        f"ignore_startup_parameters = {ignored},default_transaction_isolation" if ignoring else "",
    ]
    (folder / "pgbouncer.ini").write_text("\n".join(lines))
    arguments = [str(folder / "pgbouncer.ini")]
    if os.geteuid() == 0:
        for path in (folder, folder / "users", folder / "pgbouncer.ini"):
            shutil.chown(path, "nobody", "nogroup")
        arguments = ["-u", "nobody", *arguments]
    process = await asyncio.create_subprocess_exec(
        PGBOUNCER, "-q", *arguments, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        async with asyncio.timeout(60):
            while True:
                with suppress(OSError):
                    (await asyncio.open_connection("127.0.0.1", port))[1].close()
                    break
                assert process.returncode is None, "PgBouncer ended"
                await asyncio.sleep(0.02)
        yield url.replace(f":{there.port}/", f":{port}/")
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        shutil.rmtree(folder)


class _Session:
    """A session of the server, which clients use in turn."""

    def __init__(self, reader, writer):
        self.writer = writer
        self.inbox = None
        self.greeting = b""
        self._reader = reader
        self._passing = None

    @classmethod
    async def open(cls, url):
        session = cls(*await asyncio.open_connection(url.hostname, url.port))
        parameters = {"user": url.username, "database": url.path[1:], "client_encoding": "UTF8"}
        body = b"".join(f"{name}\0{value}\0".encode() for name, value in parameters.items()) + b"\0"
        session.writer.write(struct.pack("!II", 8 + len(body), 196_608) + body)
        kind = b""
        while kind != READY:
            kind, message = await _message(session._reader)
            assert kind != b"E", message
            session.greeting += message
        session._passing = asyncio.create_task(session._pass())
        return session

    async def _pass(self):
        """Give messages to the client that has the session; others are dropped, notifications among them."""
        with suppress(OSError, asyncio.IncompleteReadError):
            while True:
                message = await _message(self._reader)
                if self.inbox is not None:
                    self.inbox.put_nowait(("server", *message))

    def close(self):
        self._passing.cancel()
        self.writer.close()


class _StandIn:
    """Gives each transaction the session that was unused for longest."""

    def __init__(self, url, *, ignoring):
        self._url = urlsplit(url)
        self._ignoring = ignoring
        self._free = asyncio.Queue()
        self._greeting = b""

    async def open(self, sessions):
        for _ in range(sessions):
            session = await _Session.open(self._url)
            self._greeting = session.greeting
            self._free.put_nowait(session)

    def close(self):
        while not self._free.empty():
            self._free.get_nowait().close()

    async def serve(self, reader, writer):
        inbox, session, asked = asyncio.Queue(), None, 0
        reading = None
        try:
            if not await self._begin(reader, writer):
                return
            reading = asyncio.create_task(_pass_on(reader, inbox))
            while True:
                origin, kind, message = await inbox.get()
                if kind == END:
                    return
                if origin == "client":
                    if session is None:
                        session = await self._free.get()
                        session.inbox = inbox
                    session.writer.write(message)
                    asked += kind in ASKING
                else:
                    writer.write(message)
                    asked -= kind == READY
                    if kind == READY and not asked and message[5:6] == b"I":
                        session.inbox = None
                        self._free.put_nowait(session)
                        session = None
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            if reading is not None:
                reading.cancel()
            if session is not None:
                # In the middle of a transaction, which ends with its session.
                session.close()
                self._free.put_nowait(await _Session.open(self._url))
            writer.close()

    async def _begin(self, reader, writer):
        """Answer the startup message; says whether the client is taken."""
        while True:
            (length,) = struct.unpack("!I", await reader.readexactly(4))
            body = await reader.readexactly(length - 4)
            (code,) = struct.unpack("!I", body[:4])
            if code == CANCEL:
                return False
            if code != SSL:
                break
            writer.write(b"N")
        words = body[4:].rstrip(b"\0").split(b"\0")
        unknown = [name.decode() for name in words[::2] if name.decode() not in TAKEN]
        if unknown and not self._ignoring:
            text = f"SFATAL\0C08P01\0Munsupported startup parameter: {unknown[0]}\0\0".encode()
            writer.write(b"E" + struct.pack("!I", 4 + len(text)) + text)
            await writer.drain()
            return False
        writer.write(self._greeting)
        return True


async def _pass_on(reader, inbox):
    with suppress(OSError, asyncio.IncompleteReadError):
        while True:
            inbox.put_nowait(("client", *await _message(reader)))
    inbox.put_nowait(("client", END, b""))


async def _message(reader):
    head = await reader.readexactly(5)
    (length,) = struct.unpack("!I", head[1:])
    return head[:1], head + await reader.readexactly(length - 4)


@asynccontextmanager
async def stand_in(url, *, ignoring=False):
    """The stand-in; the server must trust the URL's user."""
    made = _StandIn(url, ignoring=ignoring)
    await made.open(2)
    listener = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    async with listener:
        yield url.replace(f":{urlsplit(url).port}/", f":{listener.sockets[0].getsockname()[1]}/")
    made.close()
