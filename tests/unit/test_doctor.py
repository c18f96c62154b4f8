"""The doctor's judgement: each fact that can be wrong is tried, and gives the finding of its check."""

from dataclasses import fields, replace

import pytest

from flashsale.adapters.postgres.inspection import granted
from flashsale.adapters.postgres.queries import sql_root
from flashsale.domain.checkups import PostgresFacts, RedisFacts, Right, RoleFacts, Unreached, Verdict
from flashsale.usecases import doctor
from tests.conftest import make_settings

SETTINGS = make_settings("postgresql://a:b@localhost/flashsale", "redis://localhost/0")
API, WORKER = (RoleFacts(role=role, too_mighty=False) for role in ("flashsale_api", "flashsale_worker"))
POSTGRES = PostgresFacts(
    version="18.1",
    version_number=180_001,
    clock_ahead_s=0.01,
    read_only=False,
    connections_max=300,
    connections=20,
    fsync=True,
    full_page_writes=True,
    synchronous_commit="on",
    standby_names="",
    schema_problem=None,
    roles=[API, WORKER],
    missing_rights=[],
    excess_rights=[],
)
REDIS = RedisFacts(
    version="7.2.4",
    clock_ahead_s=-0.01,
    is_replica=False,
    is_foreign_node=False,
    maxmemory=0,
    used_memory=1000,
    eviction="noeviction",
    writes_log=False,
    writes_snapshots=False,
)
RIGHT = Right("flashsale_api", "SELECT", "orders")

POSTGRES_FAULTS = [
    ("version_number", 140_010, "postgres", "WRONG"),
    ("version_number", 190_000, "postgres", "WARN"),
    ("clock_ahead_s", 1.5, "clock of postgres", "WARN"),
    ("clock_ahead_s", -31.0, "clock of postgres", "WRONG"),
    ("read_only", True, "writes", "WRONG"),
    ("connections_max", 20, "connections", "WARN"),
    ("connections", 290, "connections", "WARN"),
    ("fsync", False, "durability", "WRONG"),
    ("full_page_writes", False, "durability", "WRONG"),
    ("synchronous_commit", "off", "durability", "WRONG"),
    ("schema_problem", "The database is not migrated: run `alembic upgrade head`.", "schema", "WRONG"),
    ("roles", [API], "roles", "WRONG"),
    ("roles", [API, replace(WORKER, too_mighty=True)], "roles", "WRONG"),
    ("missing_rights", [RIGHT], "grants", "WRONG"),
    ("excess_rights", [RIGHT], "grants", "WARN"),
]
REDIS_FAULTS = [
    ("version", "6.2.14", "redis", "WRONG"),
    ("clock_ahead_s", 2.0, "clock of redis", "WARN"),
    ("clock_ahead_s", 40.0, "clock of redis", "WRONG"),
    ("is_replica", True, "redis", "WRONG"),
    ("is_foreign_node", True, "redis", "WRONG"),
    ("maxmemory", 1001, "eviction", "WARN"),
    ("eviction", "allkeys-lru", "eviction", "WRONG"),
    ("writes_log", True, "persistence", "WARN"),
    ("writes_snapshots", True, "persistence", "WARN"),
]
SHOWN_ONLY = {"version", "used_memory", "standby_names"}
"""Facts without a fault of their own."""


def not_ok(findings):
    return [(one.check, one.verdict) for one in findings if one.verdict is not Verdict.OK]


def test_healthy_servers_have_nothing_wrong():
    assert not_ok([*doctor.judge_postgres(POSTGRES, SETTINGS), *doctor.judge_redis(REDIS)]) == []


@pytest.mark.parametrize("level", ["on", "remote_apply", "off", "local", "remote_write"])
def test_a_standby_counts_only_if_a_commit_waits_until_it_has_stored_the_transaction(level):
    facts = replace(POSTGRES, standby_names="ANY 1 (a, b)", synchronous_commit=level)
    found = {one.check: one.verdict for one in doctor.judge_postgres(facts, SETTINGS)}
    assert found["standby"] is (Verdict.OK if level in {"on", "remote_apply"} else Verdict.WRONG)


@pytest.mark.parametrize(("field", "value", "check", "verdict"), POSTGRES_FAULTS)
def test_each_fault_of_postgres_is_one_finding_that_says_what_to_do(field, value, check, verdict):
    findings = list(doctor.judge_postgres(replace(POSTGRES, **{field: value}), SETTINGS))
    assert not_ok(findings) == [(check, verdict)]
    assert all(one.todo for one in findings if one.verdict is not Verdict.OK)


@pytest.mark.parametrize(("field", "value", "check", "verdict"), REDIS_FAULTS)
def test_each_fault_of_redis_is_one_finding_that_says_what_to_do(field, value, check, verdict):
    findings = list(doctor.judge_redis(replace(REDIS, **{field: value})))
    assert not_ok(findings) == [(check, verdict)]
    assert all(one.todo for one in findings if one.verdict is not Verdict.OK)


def test_every_fact_has_a_fault():
    for facts, faults in ((PostgresFacts, POSTGRES_FAULTS), (RedisFacts, REDIS_FAULTS)):
        assert {one.name for one in fields(facts)} - SHOWN_ONLY == {field for field, *_ in faults} - SHOWN_ONLY


def test_servers_that_are_away_are_one_finding_each():
    away = Unreached(problem="refused")
    assert not_ok(doctor.judge_postgres(away, SETTINGS)) == [("postgres", "WRONG")]
    assert not_ok(doctor.judge_redis(away)) == [("redis", "WRONG")]


@pytest.mark.parametrize(
    ("python", "installed", "expected"),
    [
        ((3, 11), {"litestar": "2.23.1", "redis": "7.0.0"}, []),
        ((3, 10), {"litestar": "2.23.1", "redis": "7.0.0"}, [("python", "WRONG")]),
        ((3, 99), {"litestar": "2.23.1", "redis": "7.0.0"}, [("python", "WARN")]),
        ((3, 11), {"litestar": "2.22.9", "redis": "7.0.0"}, [("packages", "WRONG")]),
        ((3, 11), {"litestar": "3.0.0", "redis": "7.0.0"}, [("packages", "WRONG")]),
        ((3, 11), {"litestar": "2.23.1"}, [("packages", "WRONG")]),
    ],
)
def test_versions_of_python_and_packages(python, installed, expected):
    required = ["litestar<3,>=2.23", "redis[hiredis]>=7"]
    assert not_ok(doctor.judge_packages(python, required, installed)) == expected


@pytest.mark.parametrize("compiled", [0, 1, 9])
@pytest.mark.parametrize("kept", [True, False])
def test_modules_that_each_process_compiles_again_are_said(compiled, kept):
    finding = doctor.judge_compilation(9, compiled, kept=kept)
    assert finding.verdict is (Verdict.OK if kept or compiled == 9 else Verdict.WARN)
    assert finding.verdict is Verdict.OK or f"{9 - compiled} of 9" in finding.what
    assert finding.verdict is Verdict.OK or "PYTHONDONTWRITEBYTECODE" in finding.todo


def test_the_provider_manual_can_charge_no_automatic_product():
    assert doctor.judge_manual("payment provider", []).verdict is Verdict.OK
    finding = doctor.judge_manual("payment provider", [7, 8, 9, 10])
    assert finding.verdict is Verdict.WRONG
    assert finding.what.endswith(": 7, 8, 9 (and 1 more)")
    assert "product pause" in finding.todo


def test_too_few_open_files_are_said():
    assert not_ok(doctor.judge_files(SETTINGS, 1024)) == [("open files", "WARN")]
    assert not_ok(doctor.judge_files(SETTINGS, 100_000)) == []


def test_the_rights_are_those_of_the_file():
    rights = granted((sql_root() / "grants.sql").read_text())
    text = (sql_root() / "grants.sql").read_text()
    assert {(one.role, one.target) for one in rights if one.privilege == "EXECUTE"}
    assert len([one for one in rights if one.privilege != "EXECUTE"]) == len(
        [
            line
            for line in text.splitlines()
            if line.startswith("GRANT ") and not line.startswith(("GRANT EXECUTE", "GRANT USAGE"))
        ]
    )
