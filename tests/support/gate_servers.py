"""Servers of the gate in the forms in which shops have them: with rights, TLS, a socket file, Sentinels, a cluster."""

from __future__ import annotations

import asyncio
import re
import ssl
import subprocess
from contextlib import AsyncExitStack, asynccontextmanager, suppress

from redis.asyncio import Redis

from flashsale.local.access import free_port
from flashsale.local.binaries import redis_server
from tests.conftest import ROOT

PASSWORD = "s3cret"


class Server:
    """A server process with a configuration of its own."""

    def __init__(self, folder, *lines, name="server", port=None, arguments=()):
        self.port = free_port() if port is None else port
        self._folder = folder / f"{name}-{self.port}"
        self._lines = [f"port {self.port}", "bind 127.0.0.1", "save ''", "appendonly no", *lines]
        self._arguments = arguments
        self._process = None

    async def start(self):
        self._folder.mkdir(exist_ok=True)
        configuration = self._folder / "server.conf"
        if not configuration.exists():
            # A Sentinel, and a node of a cluster, write what they learn into their folder.
            configuration.write_text("\n".join([*self._lines, f'dir "{self._folder}"', ""]))
        with (self._folder / "log").open("a") as log:
            self._process = await asyncio.create_subprocess_exec(
                str(redis_server()), str(configuration), *self._arguments, stdout=log, stderr=log
            )
        await until(self._answers, 10)
        return self

    async def _answers(self):
        try:
            async with asyncio.timeout(1):
                reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
                writer.write(b"PING\r\n")
                answer = await reader.readline()
                writer.close()
        except OSError:
            return False
        return answer.startswith((b"+PONG", b"-NOAUTH", b"-DENIED"))

    async def kill(self):
        """SIGKILL."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()

    def pause(self, *, resume=False):
        self._process.send_signal(18 if resume else 19)

    def client(self, **arguments):
        return Redis(host="127.0.0.1", port=self.port, decode_responses=True, **arguments)

    async def ask(self, *command):
        async with self.client() as client:
            return await client.execute_command(*command)


async def until(check, seconds):
    """Wait until an asynchronous check is true."""
    async with asyncio.timeout(seconds):
        while not await check():
            await asyncio.sleep(0.02)


@asynccontextmanager
async def running(*servers):
    """Start servers at the same time; kill them at the end."""
    try:
        await asyncio.gather(*(server.start() for server in servers))
        yield servers
    finally:
        for server in servers:
            with suppress(ProcessLookupError):
                await server.kill()


def documented_rights(heading):
    """Return the `ACL SETUSER` rules of docs/how-to/connect-redis.md below a heading, as words."""
    text = (ROOT / "docs/how-to/connect-redis.md").read_text().partition(heading)[2]
    found = re.search(r"ACL SETUSER (.*?)\n```", text, re.DOTALL)
    assert found is not None
    return found[1].replace("\\\n", " ").replace("PASSWORD", PASSWORD).split()


@asynccontextmanager
async def with_rights(folder):
    """A server whose default user is off, and whose other user may do what the documents say; gives its URL."""
    name, *rules = documented_rights("## Rights")
    server = Server(folder, f"user {name} {' '.join(rules)}", "user default off")
    async with running(server):
        yield f"redis://{name}:{PASSWORD}@127.0.0.1:{server.port}/0"


@asynccontextmanager
async def on_a_socket_file(folder):
    path = folder / "valkey.sock"
    async with running(Server(folder, f'unixsocket "{path}"', f"requirepass {PASSWORD}")):
        yield f"unix://:{PASSWORD}@{path}?db=1"


def authority(folder):
    """Make a private authority, and certificates of a server and of a client that it signs."""

    def run(*command):
        subprocess.run(["openssl", *map(str, command)], check=True, capture_output=True, cwd=folder)

    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    for name in ("ca", "other"):
        run("req", "-x509", *key, "-days", 2, "-keyout", f"{name}.key", "-out", f"{name}.crt", "-subj", f"/CN={name}")
    (folder / "names").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
    for name in ("server", "client"):
        run("req", *key, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        run("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-days", 2,
            "-out", f"{name}.crt", "-extfile", "names")  # fmt: skip
    return folder


@asynccontextmanager
async def in_front(folder, port):
    """TLS in front of a server, for a client with a certificate: the wheel's Valkey is built without TLS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.crt", folder / "server.key")
    context.load_verify_locations(folder / "ca.crt")
    context.verify_mode = ssl.CERT_REQUIRED

    async def pipe(reader, writer):
        with suppress(OSError):
            while data := await reader.read(65_536):
                writer.write(data)
        writer.close()

    async def serve(reader, writer):
        there, back = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(pipe(reader, back), pipe(there, writer))

    listener = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    async with listener:
        yield listener.sockets[0].getsockname()[1]


def tls_parameters(folder, ca="ca", client="client"):
    wanted = f"?ssl_ca_certs={folder}/{ca}.crt"
    return wanted + (f"&ssl_certfile={folder}/{client}.crt&ssl_keyfile={folder}/{client}.key" if client else "")


@asynccontextmanager
async def over_tls(folder):
    """A server with rights, behind TLS with a private authority that asks for a certificate; gives its URL."""
    name, *rules = documented_rights("## Rights")
    server = Server(folder, f"user {name} {' '.join(rules)}", "user default off")
    async with running(server), in_front(authority(folder), server.port) as port:
        yield f"rediss://{name}:{PASSWORD}@127.0.0.1:{port}/0{tls_parameters(folder)}"


def sentinel(folder, primary, quorum=1):
    """Make a Sentinel that watches a primary under the name `shop`."""
    return Server(
        folder,
        f"sentinel monitor shop 127.0.0.1 {primary.port} {quorum}",
        "sentinel down-after-milliseconds shop 500",
        "sentinel failover-timeout shop 3000",
        name="sentinel",
        arguments=("--sentinel",),
    )


class Watched:
    """A primary, a replica, and three Sentinels that watch them."""

    def __init__(self, folder):
        self.primary = Server(folder, "repl-diskless-sync-delay 0")
        self.replica = Server(folder, f"replicaof 127.0.0.1 {self.primary.port}", "repl-diskless-sync-delay 0")
        self.sentinels = [sentinel(folder, self.primary, quorum=2) for _ in range(3)]

    @property
    def url(self):
        hosts = ",".join(f"127.0.0.1:{one.port}" for one in self.sentinels)
        return f"redis+sentinel://{hosts}/shop/0"

    async def know_each_other(self):
        """Whether every Sentinel knows the others and the replica."""
        for one in self.sentinels:
            (said,) = [
                dict(zip(flat[::2], flat[1::2], strict=True)) if isinstance(flat, list) else flat
                for flat in await one.ask("SENTINEL", "MASTERS")
            ]
            if (int(said["num-other-sentinels"]), int(said["num-slaves"])) != (2, 1):
                return False
        return True

    async def promoted(self):
        """Whether the replica is the primary now."""
        return (await self.replica.ask("ROLE"))[0] == "master"


@asynccontextmanager
async def watched(folder):
    made = Watched(folder)
    async with running(made.primary), running(made.replica), running(*made.sentinels):
        await until(made.know_each_other, 20)
        yield made


class Nodes:
    """A cluster of primaries, each with `replicas`."""

    def __init__(self, folder, primaries=3, replicas=0, timeout_ms=1000):
        lines = [
            "cluster-enabled yes", "cluster-config-file nodes.conf", f"cluster-node-timeout {timeout_ms}",
            "repl-diskless-sync-delay 0", "cluster-require-full-coverage no", "cluster-replica-validity-factor 0",
        ]  # fmt: skip
        made = [Server(folder, *lines, port=cluster_port(), name="node") for _ in range(primaries * (1 + replicas))]
        self.primaries, self.replicas = made[:primaries], made[primaries:]

    @property
    def url(self):
        return "redis+cluster://" + ",".join(f"127.0.0.1:{one.port}" for one in self.primaries)

    async def meet(self):
        first, *others = every = self.primaries + self.replicas
        share = 16_384 // len(self.primaries)
        for place, one in enumerate(self.primaries):
            last = 16_383 if one is self.primaries[-1] else (place + 1) * share - 1
            await one.ask("CLUSTER", "SET-CONFIG-EPOCH", place + 1)
            await one.ask("CLUSTER", "ADDSLOTSRANGE", place * share, last)
        for one in others:
            await one.ask("CLUSTER", "MEET", "127.0.0.1", first.port)
        await until(self._all_known, 20)
        for place, one in enumerate(self.replicas):
            await one.ask(
                "CLUSTER", "REPLICATE", await self.primaries[place % len(self.primaries)].ask("CLUSTER", "MYID")
            )
        for one in every:
            await until(one_up(one), 20)

    async def _all_known(self):
        for one in self.primaries + self.replicas:
            known = await one.ask("CLUSTER", "NODES")
            if known.count("\n") < len(self.primaries + self.replicas):
                return False
        return True

    def of_slot(self, slot):
        """Return the primary that got a slot at the beginning."""
        return self.primaries[min(slot // (16_384 // len(self.primaries)), len(self.primaries) - 1)]

    async def move(self, slot, source, target):
        """Move a slot and its keys to another node, as `redis-cli --cluster reshard` does."""
        there, here = await target.ask("CLUSTER", "MYID"), await source.ask("CLUSTER", "MYID")
        await target.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", here)
        await source.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", there)
        while keys := await source.ask("CLUSTER", "GETKEYSINSLOT", slot, 100):
            await source.ask("MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "KEYS", *keys)
        for one in (target, source):
            await one.ask("CLUSTER", "SETSLOT", slot, "NODE", there)


def one_up(server):
    async def up():
        return "cluster_state:ok" in await server.ask("CLUSTER", "INFO")

    return up


def cluster_port():
    """Return a port whose bus port (10,000 higher) is free too."""
    while (port := free_port()) > 20_000:
        pass
    return port


@asynccontextmanager
async def cluster(folder, **shape):
    made = Nodes(folder, **shape)
    async with AsyncExitStack() as opened:
        await opened.enter_async_context(running(*made.primaries, *made.replicas))
        await made.meet()
        yield made
