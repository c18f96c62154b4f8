"""What is run: how large the crowds are, and which runs there are in which order."""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

from analysis.results import CROWDS, DISTURBANCES, run_name

if TYPE_CHECKING:
    from collections.abc import Sequence


START_S = 7.0
"""How long the start and the stop of an approach take, its servers included."""
STUCK_S = 6.0
"""How long it takes on average until an approach that a disturbance left stuck is known to be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """The size of the crowds of an analysis."""

    journey_factor: float
    """The five minutes of the journey are shortened to this share."""
    journey_peak: int
    journey_units: int
    stampede_buyers: int
    stampede_units: int
    stampede_s: float
    ramp_rates: tuple[int, ...]
    ramp_s: float
    """How long each step takes."""
    ramp_buyers: int
    ramp_units: int
    abuse_buyers: int
    abuse_units: int
    abuse_bots: int
    abuse_clients: int
    """Clients that share a bot's token."""
    abuse_s: float
    patience_s: float
    """How long a buyer repeats a request without a definite answer."""
    settle_s: float
    """How long orders may take to become final once the crowd has gone."""
    silent_s: float
    """How long the payment provider is silent in the runs that it disturbs."""
    tail_s: float
    """How long a run lasts beyond its crowd on average: start of the generator, patience of buyers, last orders."""

    @property
    def buyers(self) -> int:
        """Accounts that every crowd finds enough of."""
        return max(self.journey_peak, self.stampede_buyers, self.ramp_buyers, self.abuse_buyers + self.abuse_bots)

    def crowd_s(self, crowd: str) -> float:
        """Return how long a crowd takes by itself."""
        return {
            "journey": 300 * self.journey_factor,
            "stampede": self.stampede_s,
            "ramp": len(self.ramp_rates) * (self.ramp_s + 0.5),
            "abuse": self.abuse_s,
        }[crowd]


WHOLE = Size(
    journey_factor=0.025,
    journey_peak=300,
    journey_units=300,
    stampede_buyers=4000,
    stampede_units=1000,
    stampede_s=3.0,
    ramp_rates=(100, 500, 1700, 3500, 6000),
    ramp_s=1.2,
    ramp_buyers=4000,
    ramp_units=1000,
    abuse_buyers=300,
    abuse_units=400,
    abuse_bots=20,
    abuse_clients=5,
    abuse_s=2.5,
    patience_s=4.0,
    settle_s=20.0,
    silent_s=20.0,
    tail_s=6.0,
)

QUICK = Size(
    journey_factor=0.01,
    journey_peak=100,
    journey_units=60,
    stampede_buyers=1000,
    stampede_units=200,
    stampede_s=1.2,
    ramp_rates=(100, 500, 1700),
    ramp_s=0.6,
    ramp_buyers=1700,
    ramp_units=200,
    abuse_buyers=100,
    abuse_units=140,
    abuse_bots=8,
    abuse_clients=5,
    abuse_s=1.2,
    patience_s=2.0,
    settle_s=15.0,
    silent_s=5.0,
    tail_s=4.5,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One run to be made."""

    approach: str
    crowd: str
    disturbance: str
    repetition: int
    seed: int

    @property
    def name(self) -> str:
        """The name of its result file."""
        return run_name(self.approach, self.crowd, self.disturbance, self.repetition)

    def expected_s(self, size: Size) -> float:
        """Estimate how long it takes."""
        more_s = {"none": 0.0, "gateway": size.silent_s}.get(self.disturbance, STUCK_S)
        return size.crowd_s(self.crowd) + size.tail_s + more_s


def groups(jobs: Sequence[Job]) -> list[list[Job]]:
    """Return the runs for which an approach is started once: those of one approach and repetition."""
    return [list(some) for _, some in itertools.groupby(jobs, key=lambda job: (job.approach, job.repetition))]


def forecast_s(jobs: Sequence[Job], size: Size) -> float:
    """Estimate how long runs take on two free processors, with the starts and stops of the approaches."""
    return len(groups(jobs)) * START_S + sum(job.expected_s(size) for job in jobs)


def jobs(
    approaches: Sequence[str],
    crowds: Sequence[str] = CROWDS,
    disturbances: Sequence[str] = DISTURBANCES,
    *,
    repetitions: int,
    seed: int,
) -> list[Job]:
    """Return all runs in their order: by repetition, in it the approaches in random order, for each its crowds so too.

    A disturbed run is made once for each disturbance, in the first repetition, with the stampede. The runs of an
    approach in a repetition follow each other, so that it is started only once; the disturbed ones come last, so that
    what a disturbance breaks is in no other run.
    """
    draws = random.Random(seed)
    found = []
    for repetition in range(1, repetitions + 1):
        arrivals = draws.randrange(1, 2**31)
        for approach in draws.sample(approaches, len(approaches)):
            quiet = [(crowd, "none") for crowd in crowds if "none" in disturbances]
            disturbed = [("stampede", one) for one in disturbances if one != "none" and repetition == 1]
            found += [
                Job(approach=approach, crowd=crowd, disturbance=one, repetition=repetition, seed=arrivals)
                for runs in (quiet, disturbed)
                for crowd, one in draws.sample(runs, len(runs))
            ]
    return found
