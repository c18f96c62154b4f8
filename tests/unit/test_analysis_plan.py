"""Which runs an analysis makes, in which order, and how it goes on after an interruption."""

import errno
import os
import re
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import pytest
from analysis.__main__ import APPROACHES, main
from analysis.plan import QUICK, WHOLE, forecast_s, groups, jobs
from analysis.results import CROWDS, DISTURBANCES, write
from click.testing import CliRunner

from flashsale.local.children import ChildFailed
from tests.unit.test_analysis_results import ZEROS, a_run


def test_every_approach_meets_each_crowd_in_each_repetition_and_each_disturbance_once():
    planned = jobs(APPROACHES, repetitions=3, seed=1)
    assert len({job.name for job in planned}) == len(planned) == len(APPROACHES) * (3 * len(CROWDS) + 3)
    undisturbed = Counter((job.approach, job.crowd) for job in planned if job.disturbance == "none")
    assert undisturbed == {(name, crowd): 3 for name in APPROACHES for crowd in CROWDS}
    disturbed = Counter((job.approach, job.disturbance) for job in planned if job.disturbance != "none")
    assert disturbed == {(name, one): 1 for name in APPROACHES for one in DISTURBANCES[1:]}


def test_the_approaches_of_a_repetition_meet_buyers_who_arrive_at_the_same_times():
    seeds = {(job.repetition, job.seed) for job in jobs(APPROACHES, repetitions=3, seed=1)}
    assert len(seeds) == 3


def test_the_order_is_random_and_follows_from_the_seed():
    def order(seed):
        return [job.name for job in jobs(APPROACHES, repetitions=1, seed=seed)]

    assert order(1) == order(1) != order(2)
    assert sorted(order(1)) == sorted(order(2))


@pytest.mark.parametrize(("size", "kinds", "minutes"), [(QUICK, ("none", "redis"), 6), (WHOLE, DISTURBANCES, 30)])
def test_an_analysis_is_planned_to_take_less_than_it_may(size, kinds, minutes):
    planned = jobs(APPROACHES, disturbances=kinds, repetitions=3 if size is WHOLE else 1, seed=1)
    # A tenth stays for a machine that is not quite free.
    assert forecast_s(planned, size) < 0.9 * minutes * 60


def test_an_approach_is_started_once_in_a_repetition_and_disturbed_last():
    planned = jobs(APPROACHES, repetitions=3, seed=1)
    assert len(groups(planned)) == len(APPROACHES) * 3
    for some in groups(planned):
        disturbed = [job.disturbance != "none" for job in some]
        assert disturbed == sorted(disturbed)


@pytest.fixture
def runs(monkeypatch):
    """Makes runs by hand; the third one of an analysis fails, unless told otherwise."""
    told = SimpleNamespace(fails_at=2, verdict=ZEROS, made=[])

    async def run_all(todo, size, directory, *, port, said):
        for number, job in enumerate(todo):
            if number == told.fails_at:
                raise ChildFailed("naive api ended with 1 before it was ready\nsome log\nno such table")
            run = a_run(
                approach=job.approach,
                crowd=job.crowd,
                disturbance=job.disturbance,
                repetition=job.repetition,
                verdict=told.verdict,
            )
            told.made.append(run.name)
            write(directory / "runs" / f"{run.name}.json", run)
            said(job, run)

    monkeypatch.setattr("analysis.__main__.run_all", run_all)
    # Its plots take seconds, and have tests of their own.
    monkeypatch.setattr("analysis.__main__.write_page", lambda *_, **__: None)
    return told


def analysis(folder, *options):
    return CliRunner().invoke(main, ["--quick", "--results", str(folder / "found"), *options])


def test_an_analysis_that_failed_goes_on_where_it_stopped(tmp_path, runs):
    first = analysis(tmp_path)
    assert first.exit_code == 1
    assert first.output.splitlines()[-1] == "naive api ended with 1 before it was ready: no such table"
    runs.fails_at = None
    assert analysis(tmp_path).exit_code == 0
    planned = [job.name for job in jobs(APPROACHES, disturbances=("none", "redis"), repetitions=1, seed=1)]
    assert runs.made == planned, "in its order, and none twice"


def test_the_time_is_told_before_the_first_run_and_after_each(tmp_path, runs):
    runs.fails_at = None
    first, *lines = analysis(tmp_path, "--approach", "naive").output.splitlines()
    assert re.match(
        r"5 of 5 runs are to be made, in 1 starts of an approach: about 1 minutes .*, until \d\d:\d\d", first
    )
    told = [line for line in lines if re.match(r"\d/5 naive .* min left, until \d\d:\d\d", line)]
    assert len(told) == 5
    assert "about 0 min left" in told[-1]


def test_results_of_another_analysis_are_not_mixed_with_new_ones(tmp_path, runs):
    analysis(tmp_path)
    other = analysis(tmp_path, "--seed", "2")
    assert other.exit_code == 1
    assert "has results of --quick --seed 1 --repetitions 1" in other.output
    runs.fails_at = None
    assert analysis(tmp_path, "--seed", "2", "--fresh").exit_code == 0


def test_a_fault_of_the_product_makes_the_command_fail_and_is_named(tmp_path, runs):
    runs.fails_at, runs.verdict = None, replace(ZEROS, lost=2)
    ended = analysis(tmp_path, "--approach", "flashsale", "--crowd", "stampede", "--disturbance", "redis")
    assert ended.exit_code == 1
    assert ended.output.splitlines()[-1] == "flashsale.stampede.redis.1: lost 2"


def test_a_full_disk_ends_the_analysis_in_a_line(tmp_path, runs, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    ended = analysis(tmp_path)
    assert ended.exit_code == 1
    assert ended.output.strip() == "A result: No space left on device"
    assert not runs.made


def test_a_report_without_results_is_refused_in_a_line(tmp_path):
    ended = analysis(tmp_path, "--report-only")
    assert ended.exit_code == 1
    assert len(ended.output.strip().splitlines()) == 1
    assert "no such file" in ended.output
