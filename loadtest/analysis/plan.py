"""What is run: how large the crowds are, and which runs there are in which order."""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

from analysis.results import CROWDS, DISTURBANCES, run_name

if TYPE_CHECKING:
    from collections.abc import Sequence


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
    overhead_s: float
    """What the generator's start and the last orders take on average: for the estimate of the time that is left."""

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
    journey_factor=0.035,
    journey_peak=300,
    journey_units=300,
    stampede_buyers=4000,
    stampede_units=1000,
    stampede_s=4.0,
    ramp_rates=(100, 500, 1700, 3500, 6000),
    ramp_s=2.0,
    ramp_buyers=4000,
    ramp_units=1000,
    abuse_buyers=300,
    abuse_units=400,
    abuse_bots=20,
    abuse_clients=5,
    abuse_s=3.0,
    patience_s=5.0,
    settle_s=30.0,
    silent_s=20.0,
    overhead_s=7.0,
)

QUICK = Size(
    journey_factor=0.015,
    journey_peak=150,
    journey_units=100,
    stampede_buyers=1000,
    stampede_units=200,
    stampede_s=2.0,
    ramp_rates=(100, 500, 1700),
    ramp_s=1.0,
    ramp_buyers=1700,
    ramp_units=200,
    abuse_buyers=100,
    abuse_units=140,
    abuse_bots=8,
    abuse_clients=5,
    abuse_s=2.0,
    patience_s=3.0,
    settle_s=20.0,
    silent_s=5.0,
    overhead_s=5.0,
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
        return size.crowd_s(self.crowd) + size.overhead_s + (size.silent_s if self.disturbance == "gateway" else 0.0)


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
    approach in a repetition follow each other, so that it is started only once for those which leave it at rest.
    """
    draws = random.Random(seed)
    found = []
    for repetition in range(1, repetitions + 1):
        arrivals = draws.randrange(1, 2**31)
        for approach in draws.sample(approaches, len(approaches)):
            runs = [(crowd, "none") for crowd in crowds if "none" in disturbances]
            if repetition == 1:
                runs += itertools.product(("stampede",), (one for one in disturbances if one != "none"))
            found += [
                Job(approach=approach, crowd=crowd, disturbance=one, repetition=repetition, seed=arrivals)
                for crowd, one in draws.sample(runs, len(runs))
            ]
    return found
