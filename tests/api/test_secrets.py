"""What the processes of a running stack show of its secrets: environments, command lines, files and logs."""

from __future__ import annotations

import subprocess
import sys
import uuid
from pathlib import Path

import asyncpg
import psutil
import pytest

from flashsale.local.access import DATABASE_ROLES
from flashsale.local.stack import ROOT
from flashsale.settings import OPTIONAL, SECRETS, secret_names, variable

OPTIONAL_VARIABLES = {variable(name) for name in OPTIONAL}
"""Secrets that a stack need not have."""


def environment_of(pid):
    """Return what a process was started with."""
    pairs = Path(f"/proc/{pid}/environ").read_bytes().rstrip(b"\0").split(b"\0")
    return dict(pair.decode().partition("=")[::2] for pair in pairs)


def secret_values(stack):
    """Return every secret of the stack, by name; of a URL its password."""
    values = {name: value for name, value in stack.secrets.items() if value}
    values.pop("admin_email")
    for name in ("FLASHSALE_POSTGRES__OWNER_URL", "FLASHSALE_REDIS__URL"):
        values[name] = stack.environment[name].partition("://")[2].partition("@")[0].partition(":")[2]
    return values


def processes(stack):
    """Return all processes of the stack: the kind of each, and whether it is one of the product's own."""
    for role, children in stack.children.items():
        for child in children:
            for process in [psutil.Process(child.pid), *psutil.Process(child.pid).children(recursive=True)]:
                # One that has just ended shows no environment.
                if process.status() != psutil.STATUS_ZOMBIE:
                    yield role, process
    for name, server in (("postgres", stack.postgres), ("valkey", stack.valkey)):
        for process in [psutil.Process(server.child.pid), *psutil.Process(server.child.pid).children(recursive=True)]:
            yield name, process


def test_each_process_has_its_own_secrets_and_no_others(stack):
    values = secret_values(stack)
    seen = set()
    for role, process in processes(stack):
        environment = environment_of(process.pid)
        allowed = {variable(name) for name in SECRETS.get(role, ())}
        given = {variable(name) for name in secret_names() if environment.get(variable(name))}
        if role in SECRETS:
            assert given <= allowed, (role, process.cmdline())
            # A process that hashes passwords for another one gets none.
            assert not given or allowed - given <= OPTIONAL_VARIABLES, (role, process.cmdline())
        held = {name for name, value in values.items() if any(value in text for text in environment.values())}
        assert held <= {
            "api": {"jwt_secret", "flashsale_api", "FLASHSALE_REDIS__URL"},
            "orders": {"flashsale_worker", "FLASHSALE_REDIS__URL"},
            "payments": {"flashsale_worker", "FLASHSALE_REDIS__URL", "gateway_secret"},
            "maintenance": {"flashsale_worker", "FLASHSALE_REDIS__URL"},
            "simulator": {"gateway_secret"},
        }.get(role, set()), role
        if role in DATABASE_ROLES and given:
            assert f"//{DATABASE_ROLES[role]}:" in environment["FLASHSALE_POSTGRES__URL"]
        seen.add(role)
    assert seen == {"api", "orders", "payments", "maintenance", "simulator", "postgres", "valkey"}


def test_no_command_line_shows_a_secret(stack):
    values = secret_values(stack)
    for role, process in processes(stack):
        said = Path(f"/proc/{process.pid}/cmdline").read_bytes().decode()
        assert not [name for name, value in values.items() if value in said], role


def test_no_other_user_of_the_machine_reads_what_the_stack_keeps(stack):
    open_to_all = []
    folders = [stack.data_dir]
    while folders:
        folder = folders.pop()
        mode = folder.stat().st_mode
        assert not mode & 0o066, f"{folder}: others list or change it"
        for path in folder.iterdir() if mode & 0o001 or folder == stack.data_dir else ():
            if path.is_dir() and not path.is_symlink():
                if path.name != "binaries":  # programs, which are no secret
                    folders.append(path)
            elif path.stat().st_mode & 0o044 and path.name != "lock":
                open_to_all.append(str(path))
    assert not open_to_all


def test_a_file_of_tokens_is_private(stack, tmp_path):
    out = tmp_path / "buyers.jsonl"
    command = [sys.executable, "-m", "flashsale.cli", "buyers", "--count", "1", "--prefix", uuid.uuid4().hex]
    subprocess.run([*command, "--out", str(out)], env=stack.environment, cwd=ROOT, check=True)
    assert out.stat().st_mode & 0o777 == 0o600


async def test_the_log_of_postgres_holds_no_row(stack, database):
    """Refused rows, values and parameters, under every role: none of it is in the log."""
    mark = uuid.uuid4().hex
    email = f"{mark}@example.com"
    insert = "INSERT INTO users (user_id, name, email, password_hash) VALUES (gen_random_uuid(), $1, $2, $3)"
    api = await asyncpg.connect(stack.environment_of("api")["FLASHSALE_POSTGRES__URL"])
    try:
        for connection in (database, api):
            await connection.execute(insert + " ON CONFLICT DO NOTHING", "Mark", email, mark)
            for refused in (
                lambda one=connection: one.execute(insert, "Mark", email, mark),
                lambda one=connection: one.execute(insert, "", email, mark),
                lambda one=connection: one.execute(insert, "Mark", f"{mark}{'x' * 300}", mark),
                lambda one=connection: one.execute(
                    f"INSERT INTO users (user_id, name, email) VALUES (1, '{mark}', '{email}')"
                ),
                lambda one=connection: one.execute(f"SELECT * FROM nowhere WHERE email = '{email}'"),
                lambda one=connection: one.execute(f"INSERT INTO buyer_units VALUES (-1, '{uuid.UUID(mark)}', 1)"),
            ):
                with pytest.raises(asyncpg.PostgresError):
                    await refused()
    finally:
        await api.close()
    log = (stack.log_dir / "postgres.log").read_text()
    assert "duplicate key value" in log
    assert mark not in log
    assert str(uuid.UUID(mark)) not in log
