"""The result files of the comparison: what is written is read again, and a file is complete or not there."""

import errno
import os

import msgspec
import pytest
from analysis.results import (
    BOUNDS_MS,
    BadResults,
    Generator,
    Head,
    Resources,
    Run,
    latency,
    read_results,
    write,
)
from analysis.verdict import Verdict

ZEROS = Verdict(**dict.fromkeys(Verdict.__slots__, 0))


def a_head():
    return Head(
        began_at=1000.0,
        command="python -m analysis",
        seed=1,
        quick=True,
        repetitions=1,
        approaches=("naive", "flashsale"),
        machine={"processors": "2"},
        versions={"Python": "3.11"},
        lines={"naive": 34},
        processes={"naive": {"api": 5}},
        provider={},
        late_s=1.0,
        broken_share=0.05,
        generator_late_ms=50.0,
        generator_late_share=0.05,
        silent_s=20.0,
        price_per_cpu_hour=None,
    )


def a_run(**changes):
    fields = {
        "approach": "naive",
        "crowd": "stampede",
        "disturbance": "none",
        "repetition": 1,
        "seed": 1,
        "began_at": 1000.0,
        "units": 100,
        "buyers": 500,
        "crowd_s": 5.0,
        "took_s": 12.0,
        "disturbed_s": None,
        "first_answer": latency([1.0, 2.0, 3.0]),
        "to_confirmed": latency([]),
        "accepted": 100,
        "sold_out": 400,
        "given_up": 0,
        "answers": {"202": 100, "409": 400},
        "orders": {"confirmed": 90, "payment_failed": 10},
        "confirmed_per_s": 9.0,
        "seconds": (),
        "samples": (),
        "generator": Generator(p50_ms=0.1, p99_ms=1.0, worst_ms=5.0, late_share=0.0, late=False, cpu_s=3.0),
        "resources": Resources(
            wall_s=8.0,
            cpu_s={"api": 5.0, "postgres": 3.0, "redis": 1.0, "simulator": 7.0},
            pss_bytes={"api": 2**28},
            processes=5,
            postgres={"commits": 1000},
            redis={"commands": 0},
        ),
        "verdict": ZEROS,
    }
    return Run(**{**fields, **changes})


def test_what_is_written_is_read_again(tmp_path):
    runs = [a_run(approach=name, repetition=number) for name in ("flashsale", "naive") for number in (1, 2)]
    write(tmp_path / "analysis.json", a_head())
    for run in runs:
        write(tmp_path / "runs" / f"{run.name}.json", run)
    results = read_results(tmp_path)
    assert results.head == a_head()
    assert list(results.runs) == runs


def test_a_cost_counts_what_one_pays_for():
    run = a_run()
    assert run.cost(0.36) == pytest.approx(9.0 / 3600 * 0.36 / 90 * 1000)
    assert a_run(orders={}).cost(0.36) is None


def test_each_value_is_in_the_bucket_that_its_bound_names():
    values = [0.5, 1.0, 1.1, 10.0, 63_000.0, 70_000.0]
    found = latency(values)
    assert sum(found.histogram) == len(values) == found.count
    assert found.histogram[0] == 2
    assert found.histogram[-1] == 1
    assert found.worst_ms == 70_000
    assert len(found.histogram) == len(BOUNDS_MS) + 1


def test_a_file_that_a_full_disk_cuts_short_is_no_result(tmp_path, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write(tmp_path / "runs" / "a.json", a_run())
    assert not list((tmp_path / "runs").iterdir())


@pytest.mark.parametrize("content", [b"", b"{}", b'{"format": 1}', b"\xff"])
def test_a_damaged_file_is_named(tmp_path, content):
    write(tmp_path / "analysis.json", a_head())
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "naive.json").write_bytes(content)
    with pytest.raises(BadResults, match=r"naive\.json"):
        read_results(tmp_path)


def test_a_file_of_another_format_is_refused(tmp_path):
    write(tmp_path / "analysis.json", msgspec.structs.replace(a_head(), format=9))
    with pytest.raises(BadResults, match="format 9"):
        read_results(tmp_path)


def test_a_directory_without_an_analysis_is_refused(tmp_path):
    with pytest.raises(BadResults, match="no such file"):
        read_results(tmp_path)
