"""What the simulated gateway draws: seeded, repeatable, and distributed as its settings say."""

from __future__ import annotations

import math
import statistics

import pytest

from flashsale.simulator.faults import Behaviour, Fault, RefusedError, checked
from flashsale.simulator.rules import sample_decline, sample_latency_s

DRAWS = 20_000
BEHAVIOUR = Behaviour(
    latency_mean_s=2.5,
    latency_sigma=0.5,
    decline_rate=0.1,
    error_rate=0.1,
    charged_error_rate=0.2,
    drop_rate=0.3,
    hang_rate=0.1,
    cut_rate=0.1,
    slow_rate=0.1,
    reject_rate=0.1,
)


def keys() -> list[str]:
    return [f"order-{number}" for number in range(DRAWS)]


def test_latency_is_log_normal_with_the_mean_and_sigma_of_the_settings() -> None:
    drawn = [sample_latency_s(7, key, mean_s=2.5, sigma=0.5) for key in keys()]
    logs = [math.log(latency_s) for latency_s in drawn]
    assert statistics.fmean(drawn) == pytest.approx(2.5, rel=0.02)
    assert statistics.fmean(logs) == pytest.approx(math.log(2.5) - 0.5**2 / 2, abs=0.015)
    assert statistics.stdev(logs) == pytest.approx(0.5, rel=0.02)


def test_latency_zero_and_sigma_zero_are_exact() -> None:
    assert sample_latency_s(7, "k", mean_s=0.0, sigma=0.5) == 0.0
    assert sample_latency_s(7, "k", mean_s=2.5, sigma=0.0) == pytest.approx(2.5)


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.5, 1.0])
def test_the_share_of_declines_is_the_rate(rate: float) -> None:
    declined = sum(sample_decline(7, key, rate=rate) is not None for key in keys())
    # Five standard deviations of a binomial share; exact at 0 and 1.
    assert declined / DRAWS == pytest.approx(rate, abs=5 * math.sqrt(rate * (1 - rate) / DRAWS))


def test_a_key_has_one_outcome_under_one_seed_and_another_under_another() -> None:
    def outcomes(seed: int) -> list[str | None]:
        return [sample_decline(seed, key, rate=0.5) for key in keys()[:1000]]

    assert outcomes(7) == outcomes(7)
    assert outcomes(7) != outcomes(8)


def test_outcome_and_latency_do_not_depend_on_each_other() -> None:
    declined = [
        sample_latency_s(7, key, mean_s=2.5, sigma=0.5)
        for key in keys()
        if sample_decline(7, key, rate=0.1) is not None
    ]
    assert statistics.fmean(declined) == pytest.approx(2.5, rel=0.05)


def test_each_fault_has_its_own_share_of_the_draw() -> None:
    ends = [math.fsum(BEHAVIOUR.fault_rates[:number]) for number in range(len(Fault) + 1)]
    for fault, begin, end in zip(Fault, ends, ends[1:], strict=False):
        assert (BEHAVIOUR.fault(begin + 1e-9), BEHAVIOUR.fault(end - 1e-9)) == (fault, fault)
    calm = Behaviour(
        latency_mean_s=0,
        latency_sigma=0,
        decline_rate=0,
        error_rate=0,
        charged_error_rate=0,
        drop_rate=0,
        hang_rate=0,
    )
    assert calm.fault(0.0) is None


def test_fault_rates_that_exceed_one_together_are_refused() -> None:
    assert checked(BEHAVIOUR) is BEHAVIOUR
    values = {field: getattr(BEHAVIOUR, field) for field in Behaviour.__slots__}
    with pytest.raises(RefusedError):
        checked(Behaviour(**{**values, "hang_rate": 0.5}))
    with pytest.raises(RefusedError):
        checked(Behaviour(**{**values, "decline_rate": math.nan}))
