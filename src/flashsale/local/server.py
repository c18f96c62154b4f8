"""The base of the local stack's servers: port, password and log, and start and stop of the process."""

from __future__ import annotations

import signal
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from flashsale.local.access import read_access
from flashsale.local.children import Child, ChildFailed, wait_gone, wait_until, working_in

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

LAST_BREATH_S = 1.0
"""How long to wait for the end of a server whose launcher has just died, before it counts as running."""

ORPHANS_S = 5.0
"""How long to wait for the processes that a dead server left, once they are killed."""


class Program(NamedTuple):
    """The program of a server, and the user that runs it."""

    path: Path
    prefix: Sequence[str] = ()
    """A command that runs it as another user."""
    user_id: int | None = None
    """The user that runs the server, if not ours."""


class LocalServer(ABC):
    """A server and its data, on loopback; start, stop, kill and start again on the same port and data."""

    name: ClassVar[str]
    start_s: ClassVar[float]
    """Maximum time from the start until the server answers."""
    stop_signal: ClassVar[signal.Signals] = signal.SIGTERM

    def __init__(self, data_dir: Path, *, home: Path, pid_file: Path, port: int | None, log_path: Path | None) -> None:
        """Keep everything below `data_dir`, which is created on demand.

        `home` is the working directory of all of the server's processes; the server writes its id to `pid_file`.
        """
        self._data_dir = data_dir
        self._home = home
        self._pid_file = pid_file
        self._port = port
        self._log_path = log_path or data_dir / f"{self.name}.log"
        self.child: Child | None = None

    @property
    @abstractmethod
    def url(self) -> str:
        """Where the server is, with its password."""

    @abstractmethod
    def _find(self) -> Program:
        """Find the server's program; `MissingBinary` if there is none."""

    @abstractmethod
    async def _prepare(self, program: Program, port: int, password: str) -> Sequence[str]:
        """Write the files that the server needs at start; returns the arguments of its command."""

    @abstractmethod
    async def _answers(self) -> bool:
        """Say whether the server takes connections."""

    async def start(self) -> str:
        """Prepare the data, start the server, wait until it answers; returns its URL.

        Raises:
            ChildFailed: with the end of the log, if it does not come up; nothing is left running then.
            MissingBinary: if there is no server to start.
        """
        self._data_dir.mkdir(parents=True, exist_ok=True)
        program = self._find()
        await self._clear_dead_server(program.path.name)
        port, password = read_access(self._data_dir, self._port, keep=self.child is not None)
        arguments = await self._prepare(program, port, password)
        command = [*program.prefix, str(program.path), *arguments]
        self.child = Child(self.name, command, log_path=self._log_path, user_id=program.user_id)
        try:
            await wait_until(self._answers, child=self.child, timeout_s=self.start_s, what="answer")
        except BaseException:
            # Its child processes too: one that recovers or syncs data would continue for seconds.
            await self.kill()
            raise
        return self.url

    async def stop(self) -> None:
        """Stop the server in order."""
        if self.child is not None:
            await self.child.stop(self.stop_signal)

    async def kill(self) -> None:
        """Kill the server with all its processes, as a crash of the machine does."""
        if self.child is not None:
            # Its children (sessions that compute, a snapshot being written) would continue until they notice its end.
            await self.child.kill_all()

    async def restart(self) -> str:
        """Stop it in order, if it runs, and start it on the same port and data; returns its URL."""
        await self.stop()
        return await self.start()

    def _port_and_password(self) -> tuple[str, str]:
        port, password = (self._data_dir / "access").read_text().split()
        return port, password

    async def _clear_dead_server(self, program: str) -> None:
        """Make sure that no server runs on the data, and end the processes that a dead server left.

        The pid file proves nothing, because its number may belong to another program by now. The working directory
        identifies the processes: all of a server's processes have its home. A new Postgres server would destroy
        the data if sessions of the old one still ran.

        Raises:
            ChildFailed: if a server runs there.
        """
        left = working_in(self._home, program)
        # A server whose launcher has just died is about to end.
        if left and not await wait_gone(left, timeout_s=LAST_BREATH_S):
            try:
                server = int(self._pid_file.read_text().split()[0])
            except (OSError, ValueError, IndexError):
                server = left[0]
            if server in left:
                raise ChildFailed(f"A {self.name} server (process {server}) already runs on {self._data_dir}.")
            if not await wait_gone(left, timeout_s=ORPHANS_S, kill=True):
                raise ChildFailed(f"Processes {left} of a dead {self.name} server do not leave {self._data_dir}.")
        self._pid_file.unlink(missing_ok=True)
