"""When requests begin.

In an open loop they begin on a schedule, whatever became of those before: users do not wait for each other. In a closed
loop the next one begins when one ends, so a service that stalls is asked less, and its worst moments hardly count
(coordinated omission). Latency is measured from the moment when a request was to begin.
"""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from typing import Literal


@dataclass(frozen=True)
class OpenLoop:
    """Requests on a schedule.

    Args:
        rate: requests per second, of all processes together.
        duration_s: how long.
        last_rate: a linear ramp ends with this rate; the same rate all the time by default.
        spacing: `constant`, or `poisson` for requesters that know nothing of each other.
        warm_up_s: how long requests are made at `rate` before time 0; they are not counted.
    """

    rate: float
    duration_s: float
    last_rate: float | None = None
    spacing: Literal["constant", "poisson"] = "constant"
    warm_up_s: float = 0.0

    @property
    def total(self) -> float:
        """How many requests there are after the warm-up, on average."""
        return (self.rate + (self.rate if self.last_rate is None else self.last_rate)) / 2 * self.duration_s

    @property
    def planned(self) -> float:
        """The same, with those of the warm-up."""
        return self.total + self.rate * self.warm_up_s

    @property
    def highest_rate(self) -> float:
        """Of all moments."""
        return max(self.rate, self.last_rate or 0.0)

    def times(self, process: int, processes: int, random: Random) -> Iterator[float]:
        """When one of several processes begins its requests, in seconds; negative while it warms up.

        A schedule of one request per unit of time is stretched by the rate. Every so many-th request of a constant one
        is this process's; Poisson processes add up to one whose rate is the sum.
        """
        warming = self.rate * self.warm_up_s
        units: Iterator[float]
        if self.spacing == "constant":
            units = itertools.count(process, processes)
        else:
            units = itertools.accumulate(random.expovariate(1 / processes) for _ in itertools.repeat(None))
        for unit in units:
            if unit < warming:
                yield unit / self.rate - self.warm_up_s
            elif unit - warming < self.total:
                yield self._when(unit - warming)
            else:
                return

    def _when(self, unit: float) -> float:
        """When so many requests have begun: rate·t + growth·t²/2 = unit."""
        growth = 0.0 if self.last_rate is None else (self.last_rate - self.rate) / self.duration_s
        if growth == 0:
            return unit / self.rate
        return (math.sqrt(max(0.0, self.rate**2 + 2 * growth * unit)) - self.rate) / growth


@dataclass(frozen=True)
class ClosedLoop:
    """So many requesters, each of which asks again when it has been answered.

    Args:
        in_flight: how many, in all processes together.
        duration_s: how long; None for as long as it takes.
        requests: how many in all; None for as many as there is time for.
        think_s: how long a requester pauses before it asks again.
        warm_up_s: as `OpenLoop`.
    """

    in_flight: int
    duration_s: float | None = None
    requests: int | None = None
    think_s: float = 0.0
    warm_up_s: float = 0.0

    @property
    def planned(self) -> int:
        """How many requests there are at least."""
        return self.requests or 0

    def share(self, number: int | None, process: int, processes: int) -> int | None:
        """What one of several processes has of a number."""
        return None if number is None else number // processes + (process < number % processes)


Arrivals = OpenLoop | ClosedLoop
