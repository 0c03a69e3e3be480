"""The schedule of requests.

In an open loop requests begin on a schedule, independently of earlier ones: users do not wait for each other. In a
closed loop a request begins when an earlier one ends, so a stalled service gets fewer requests, and its slowest moments
hardly count (coordinated omission). Latency is measured from the scheduled start of a request.
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
        duration_s: the duration, without the warm-up.
        last_rate: the rate at the end of a linear ramp; by default the rate is constant.
        spacing: `constant`, or `poisson` for independent callers.
        warm_up_s: how long requests are sent at `rate` before time 0; they are not counted.
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
        """The same, with the warm-up included."""
        return self.total + self.rate * self.warm_up_s

    @property
    def highest_rate(self) -> float:
        """The highest rate at any moment."""
        return max(self.rate, self.last_rate or 0.0)

    def times(self, process: int, processes: int, random: Random) -> Iterator[float]:
        """When one of several processes begins its requests, in seconds; negative during the warm-up.

        A schedule of one request per unit of time is scaled by the rate. Of n processes, each takes every n-th request
        of a constant schedule; Poisson processes add up to one Poisson process whose rate is the sum.
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
        """The time t at which `unit` requests have begun: rate·t + growth·t²/2 = unit."""
        growth = 0.0 if self.last_rate is None else (self.last_rate - self.rate) / self.duration_s
        if growth == 0:
            return unit / self.rate
        return (math.sqrt(max(0.0, self.rate**2 + 2 * growth * unit)) - self.rate) / growth


@dataclass(frozen=True)
class ClosedLoop:
    """A fixed number of callers, each of which sends its next request after the answer to the one before.

    Args:
        in_flight: the number of callers, in all processes together.
        duration_s: the duration; None to run until all `requests` have ended.
        requests: the total number of requests; None for no limit.
        think_s: how long a caller pauses before its next request.
        warm_up_s: as in `OpenLoop`.
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
        """One process's share of a total number."""
        return None if number is None else number // processes + (process < number % processes)


Arrivals = OpenLoop | ClosedLoop
