"""Judges the facts that `flashsale doctor` reads: what is right, what is not, and what to do. Pure functions."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from flashsale.domain.checkups import Finding, RedisFacts, Unreached, Verdict

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from flashsale.domain.checkups import PostgresFacts
    from flashsale.settings import Settings

PYTHON_MIN, PYTHON_TESTED = (3, 11), (3, 13)
POSTGRES_MIN, POSTGRES_TESTED = 15, 18
REDIS_MIN = (7, 0)

CLOCK_WARN_S, CLOCK_WRONG_S = 1.0, 30.0
"""Correctness does not depend on clocks of processes. The expiry of tokens and the age of webhooks' signatures do."""

FILES_BESIDE = 200
"""Open files of an API process other than its clients' connections."""

NEARLY_FULL = 0.9
UNCONFIRMED = frozenset({"off", "local", "remote_write"})
"""Values of `synchronous_commit` with which COMMIT does not wait until the standby has stored the transaction."""


LISTED_MAX = 3
"""Names in one finding."""

_NAME = re.compile(r"[A-Za-z0-9._-]+")
_ADVICE = re.compile(r": (?=run|deploy)|\. (?=Put)")
"""Where a sentence about the schema turns from what is wrong to what to do."""

_BOUND = re.compile(r"(>=|<)([\d.]+)")


def ok(check: str, what: str) -> Finding:
    """Make a finding that all is well."""
    return Finding(check=check, verdict=Verdict.OK, what=what)


def warn(check: str, what: str, todo: str) -> Finding:
    """Make a finding that something should be looked at."""
    return Finding(check=check, verdict=Verdict.WARN, what=what, todo=todo)


def wrong(check: str, what: str, todo: str) -> Finding:
    """Make a finding that something does not work, or is not safe."""
    return Finding(check=check, verdict=Verdict.WRONG, what=what, todo=todo)


def judge_settings(lines: Sequence[str], unknown: Sequence[tuple[str, str | None]]) -> Iterator[Finding]:
    """Judge the settings: each line names a variable that is wrong; `unknown` variables set nothing."""
    for line in lines:
        name, _, problem = line.partition(": ")
        yield wrong("settings", f"{name} {problem or 'cannot be read'}", "Correct it; see docs/reference/settings.md.")
    for name, similar in unknown:
        todo = f"Rename it, perhaps to {similar}, or remove it." if similar else "Remove it."
        yield warn("settings", f"{name} is no setting", todo)
    if not lines and not unknown:
        yield ok("settings", "all valid")


def judge_packages(
    python: tuple[int, int], required: Sequence[str], installed: Mapping[str, str | None]
) -> Iterator[Finding]:
    """Judge Python and the packages. `required`: like `litestar>=2.23,<3`; `installed`: versions by lower-case name."""
    shown = f"{python[0]}.{python[1]}"
    if python < PYTHON_MIN:
        yield wrong("python", f"Python {shown}", f"Use Python {PYTHON_MIN[0]}.{PYTHON_MIN[1]} or newer.")
    elif python > PYTHON_TESTED:
        yield warn("python", f"Python {shown} is newer than those of the tests", "Run the tests: nox -s tests.")
    else:
        yield ok("python", f"Python {shown}")
    bad = []
    for requirement in required:
        name = package_of(requirement)
        version = installed.get(name.lower())
        if version is None:
            bad.append(f"{name} is missing")
        elif not all(
            (_number(version) >= _number(bound)) == (sign == ">=") for sign, bound in _BOUND.findall(requirement)
        ):
            bad.append(f"{name} {version} is not {requirement.removeprefix(name)}")
    if bad:
        yield wrong("packages", _some(bad), "Install requirements/run.txt.")
    else:
        yield ok("packages", f"{len(required)} packages in the versions that this release needs")


def judge_compilation(modules: int, compiled: int, *, kept: bool) -> Finding:
    """Judge whether the program's modules are compiled. `kept`: Python keeps what it compiles."""
    check = "compiled modules"
    if kept or compiled == modules:
        return ok(check, "each process finds them, or compiles and keeps them")
    what = f"{modules - compiled} of {modules} are not there, and Python keeps none: each process compiles them again"
    return warn(check, what, "Take PYTHONDONTWRITEBYTECODE out of the environment, or run python -m compileall -q src.")


def package_of(requirement: str) -> str:
    """Return the package of a requirement such as `redis[hiredis]>=7`."""
    name: str = _NAME.findall(requirement)[0]
    return name


def judge_files(settings: Settings, files_max: int) -> Iterator[Finding]:
    """Judge the hard limit of open files, to which processes raise their own."""
    needed = settings.http.connections_max + settings.postgres.pool_max + FILES_BESIDE
    if files_max < needed:
        todo = f"Raise the limit (ulimit -Hn {needed}), or lower FLASHSALE_HTTP__CONNECTIONS_MAX."
        yield warn("open files", f"a process may open {files_max:,}, and an API process needs {needed:,}", todo)
    else:
        yield ok("open files", f"{files_max:,}")


def judge_postgres(facts: PostgresFacts | Unreached, settings: Settings) -> Iterator[Finding]:
    """Judge Postgres: version, writes, durability, clock, schema, roles, rights, connections."""
    if isinstance(facts, Unreached):
        yield wrong("postgres", facts.problem, "Start the server, or correct FLASHSALE_POSTGRES__URL.")
        return
    major = facts.version_number // 10_000
    if major < POSTGRES_MIN:
        yield wrong("postgres", f"version {facts.version}", f"Use Postgres {POSTGRES_MIN} or newer.")
    elif major > POSTGRES_TESTED:
        yield warn("postgres", f"version {facts.version} is newer than those of the tests", "Run the tests on it.")
    else:
        yield ok("postgres", f"version {facts.version}")
    if facts.read_only:
        yield wrong("writes", "the server is read-only, or a standby", "Name the server that takes writes.")
    yield from _durability(facts)
    yield _clock("clock of postgres", facts.clock_ahead_s)
    if facts.schema_problem is None:
        yield ok("schema", "as this release needs it")
    else:
        what, _, todo = _ADVICE.sub("\n", facts.schema_problem, count=1).partition("\n")
        yield wrong("schema", what, todo)
    yield from _rights(facts)
    yield _connections(facts, settings)


def _durability(facts: PostgresFacts) -> Iterator[Finding]:
    off = [name for name in ("fsync", "full_page_writes") if not getattr(facts, name)]
    if facts.synchronous_commit == "off":
        off.append("synchronous_commit")
    if off:
        todo = "Switch it on: an accepted order must survive a loss of power."
        yield wrong("durability", f"{', '.join(off)} is off", todo)
    else:
        yield ok("durability", f"fsync, full_page_writes, synchronous_commit = {facts.synchronous_commit}")
    if facts.standby_names and facts.synchronous_commit in UNCONFIRMED:
        what = f"synchronous_commit = {facts.synchronous_commit}, which does not wait until the standby has stored it"
        yield wrong("standby", what, "Set it to on: an accepted order must survive the loss of the primary.")
    elif facts.standby_names:
        yield ok("standby", f"COMMIT waits for {facts.standby_names}")


def _rights(facts: PostgresFacts) -> Iterator[Finding]:
    known = {one.role for one in facts.roles}
    lacking = sorted({"flashsale_api", "flashsale_worker"} - known)
    mighty = sorted(one.role for one in facts.roles if one.too_mighty)
    if lacking:
        yield wrong("roles", f"{', '.join(lacking)} does not exist", "Run `alembic upgrade head`.")
    elif mighty:
        todo = "Take this away: the database users of processes own nothing and administer nothing."
        yield wrong("roles", f"{', '.join(mighty)} is a superuser, may make roles, or owns a table", todo)
    else:
        yield ok("roles", ", ".join(sorted(known)))
    # Each right of a role that does not exist is missing too; the finding above says so.
    missing = [one for one in facts.missing_rights if one.role in known]
    # Rights of a superuser are not granted.
    excess = [one for one in facts.excess_rights if one.role not in mighty]
    if missing:
        names = _some([f"{one.role} may not {one.privilege} {one.target}" for one in missing])
        yield wrong("grants", names, "Run sql/grants.sql as the owner of the tables.")
    if excess:
        names = _some([f"{one.role} may {one.privilege} {one.target}" for one in excess])
        yield warn("grants", names, "Run sql/grants.sql as the owner of the tables, and look for grants to PUBLIC.")
    if not missing and not excess:
        yield ok("grants", "as in sql/grants.sql")


def _connections(facts: PostgresFacts, settings: Settings) -> Finding:
    pool = settings.postgres.pool_max
    # A worker has a pool and a listening connection for its queue, the maintenance worker those of two queues.
    api, worker = pool + 1, pool + 2
    needed = settings.http.processes * api + 3 * settings.workers.processes * worker + 2
    figures = f"{facts.connections} of {facts.connections_max} in use; one container of each kind opens up to {needed}"
    if needed > facts.connections_max or facts.connections > NEARLY_FULL * facts.connections_max:
        todo = "Raise max_connections, or lower FLASHSALE_POSTGRES__POOL_MAX or the number of processes."
        return warn("connections", figures, todo)
    return ok("connections", figures)


def judge_redis(facts: RedisFacts | Unreached) -> Iterator[Finding]:
    """Judge a server of the gate: version, role, clock, memory, eviction, persistence."""
    if isinstance(facts, Unreached):
        todo = "Start the server, or correct FLASHSALE_REDIS__URL. Until then Postgres decides without the gate."
        yield wrong("redis", facts.problem, todo)
        return
    if _number(facts.version) < REDIS_MIN:
        yield wrong("redis", f"version {facts.version}", "Use Redis 7.0 or newer, or Valkey.")
    elif facts.is_replica:
        yield wrong("redis", "the server is a replica", "Name the primary, or Sentinels that know it.")
    elif facts.is_foreign_node:
        yield wrong("redis", "the server is a node of a cluster", "Write redis+cluster:// in FLASHSALE_REDIS__URL.")
    else:
        yield ok("redis", f"version {facts.version}")
    yield _clock("clock of redis", facts.clock_ahead_s)
    if facts.eviction != "noeviction":
        todo = "Set maxmemory-policy noeviction: the server may delete the gate's keys when its memory is full."
        yield wrong("eviction", f"maxmemory-policy is {facts.eviction}", todo)
    elif facts.maxmemory and facts.used_memory > NEARLY_FULL * facts.maxmemory:
        todo = "Raise maxmemory: a full server refuses the gate's scripts, and Postgres decides alone."
        yield warn("eviction", f"{facts.used_memory:,} of {facts.maxmemory:,} bytes are used", todo)
    else:
        yield ok("eviction", "noeviction")
    written = [name for name, on in (("appendonly", facts.writes_log), ("save", facts.writes_snapshots)) if on]
    if written:
        todo = "Switch it off: the gate is loaded from Postgres, and writing to a disk delays its answers (ADR 12)."
        yield warn("persistence", f"{' and '.join(written)} is on", todo)
    else:
        yield ok("persistence", "nothing is written to a disk")


def judge_answer(check: str, what: str, problem: str | None, todo: str) -> Finding:
    """Judge a part that was asked: without a problem it answered."""
    return ok(check, what) if problem is None else wrong(check, f"{what}: {problem}", todo)


def judge_manual(check: str, automatic: Sequence[int]) -> Finding:
    """Judge the provider `manual`, which can charge nobody; `automatic`: products that need a charge."""
    if not automatic:
        return ok(check, "manual: there is nothing to reach")
    what = f"manual can charge nobody, and these products are automatic and not paused: {_some([*map(str, automatic)])}"
    return wrong(check, what, "Pause them with `flashsale product pause`; see docs/how-to/payments.md.")


def judge_messages(target: str, waiting: int, dead: int, problem: str | None) -> Finding | None:
    """Judge the messages to a target; None if all arrive."""
    if not dead:
        return None
    what = f"{target}: {dead} messages dead, {waiting} waiting; the last problem: {problem}"
    return warn("outbox", what, f"Repair the endpoint, then `flashsale webhooks resend --endpoint {target}`.")


def _clock(check: str, ahead_s: float) -> Finding:
    what = f"{abs(ahead_s):.3f} s {'ahead of' if ahead_s > 0 else 'behind'} this machine"
    todo = "Run a time service (chrony, systemd-timesyncd) on both machines."
    if abs(ahead_s) >= CLOCK_WRONG_S:
        return wrong(check, what, todo)
    return warn(check, what, todo) if abs(ahead_s) >= CLOCK_WARN_S else ok(check, what)


def _number(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])


def _some(names: Sequence[str]) -> str:
    more = f" (and {len(names) - LISTED_MAX} more)" if len(names) > LISTED_MAX else ""
    return ", ".join(names[:LISTED_MAX]) + more
