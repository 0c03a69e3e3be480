"""The measurements of all processes, in bounded memory: histograms by outcome, and a timeline."""

import math
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random
from typing import Any

import numpy as np
from hdrh.histogram import HdrHistogram

from prediction_client.load.arrivals import ClosedLoop
from prediction_client.load.ledger import MISSING, NO_MODEL_CALL, WRONG
from prediction_client.load.plan import Plan
from prediction_client.load.shipment import Calls, Shipment

MAX_US = 3_600_000_000
CELLS = 480
FIRST_CELL_S = 0.125
POINTS_KEPT = 6  # per cell and status, for the plot, in addition to the slowest
PERCENTILES = (50, 95, 99, 99.9)


Point = tuple[float, float]


class Histogram(HdrHistogram):  # type: ignore[misc] # it has no types
    """A histogram of microseconds. It keeps the sum, so the mean is exact and needs no pass over the counters."""

    def __init__(self, digits: int = 3) -> None:
        super().__init__(1, MAX_US, digits)
        self.sum_us = 0

    def record(self, values_us: "np.ndarray[Any, Any]") -> None:
        """Record values."""
        self.sum_us += int(values_us.sum())
        for value, count in zip(*(part.tolist() for part in np.unique(values_us, return_counts=True)), strict=True):
            self.record_value(value, count)

    def add(self, other: "Histogram") -> None:
        """Add another histogram to this one."""
        super().add(other)
        self.sum_us += other.sum_us


@dataclass
class Cell:
    """The requests of one interval, by their scheduled start; `ended` counts by the time of the reply.

    Attributes:
        latency_us: the latencies of all answers.
        answers: the number of answers by cache status.
        failures: the number of failures of any kind.
        ended: the number of answers that came in this interval.
        points: some answers of each status: when they were due, and how long they took, in seconds.
        slowest: the slowest answer of each status.
    """

    latency_us: Histogram = field(default_factory=lambda: Histogram(2))
    answers: Counter[str] = field(default_factory=Counter)
    failures: int = 0
    ended: int = 0
    points: dict[str, list[Point]] = field(default_factory=lambda: defaultdict(list))
    slowest: dict[str, Point] = field(default_factory=dict)

    def add(self, other: "Cell", random: Random) -> None:
        """Add another cell to this one."""
        self.latency_us.add(other.latency_us)
        self.answers += other.answers
        self.failures += other.failures
        self.ended += other.ended
        for status, points in other.points.items():
            both = self.points[status] + points
            self.points[status] = random.sample(both, min(len(both), POINTS_KEPT))
        for status, point in other.slowest.items():
            self.slowest[status] = max(self.slowest.get(status, point), point, key=_took)


class Run:
    """One run of a plan.

    Args:
        plan: the plan of the run.
        name: distinguishes it from other runs, e.g. `without the cache`.
    """

    def __init__(self, plan: Plan, name: str = "") -> None:
        self.plan, self.name = plan, name
        self.latency_us: dict[str, Histogram] = {}
        self.failed_us: dict[str, Histogram] = {}
        self.behind_us = Histogram()
        self.cells: dict[int, Cell] = defaultdict(Cell)
        self.cell_s = FIRST_CELL_S
        self.model_calls = 0
        self.calls: Counter[int] = Counter()
        self.inputs: set[int] = set()
        self.in_time = 0
        self._inputs = 0
        # Distinct inputs are only counted: there may be too many to keep.
        self._remembers_inputs = plan.inputs.popularity.name != "distinct"
        self.unawaited = 0
        self.in_flight: dict[int, int] = {}
        self.cpu_s: dict[int, float] = {}
        self.last_end_s = self.now_s = 0.0
        self.sent = 0
        self.unfinished_us = Histogram()
        self.problem: str | None = None
        self.is_interrupted = False
        self._random = Random(1)

    def __repr__(self) -> str:
        return f"<Run {self.name!r} answered={self.answered} failed={self.failed}>"

    def add(self, process: int, shipment: Shipment) -> None:
        """Add the shipment of a process."""
        self.in_flight[process] = shipment.in_flight
        self.cpu_s[process] = shipment.cpu_s
        self.unawaited += shipment.unawaited
        self.sent += shipment.sent
        self.now_s = max(self.now_s, shipment.now_s)
        self.problem = shipment.problem or self.problem
        self.model_calls += len(shipment.asked_model)
        if self._remembers_inputs:
            self.inputs.update(shipment.asked_model)
            self.calls.update(shipment.asked_model)
        self.unfinished_us.record(_us(np.frombuffer(shipment.unfinished_s)))
        self.behind_us.record(_us(np.frombuffer(shipment.behind_s)))
        for status, calls in shipment.answers.items():
            self._add_answers(status, calls)
        for code, calls in shipment.failures.items():
            due, took = np.frombuffer(calls.due), np.frombuffer(calls.took)
            self.failed_us.setdefault(code, Histogram()).record(_us(took))
            for cell, here in self._cells_of(due):
                cell.failures += int(np.count_nonzero(here))
            self.last_end_s = max(self.last_end_s, float((due + took).max()))

    def _add_answers(self, status: str, calls: Calls) -> None:
        due, took = np.frombuffer(calls.due), np.frombuffer(calls.took)
        took_us, ended = _us(took), due + took
        self.latency_us.setdefault(status, Histogram()).record(took_us)
        if self._remembers_inputs:
            self.inputs.update(calls.keys)
        else:
            self._inputs += len(due)
        if status not in NO_MODEL_CALL:
            self.model_calls += len(due)
            if self._remembers_inputs:
                self.calls.update(calls.keys)
        for cell, here in self._cells_of(due):
            cell.latency_us.record(took_us[here])
            cell.answers[status] += int(np.count_nonzero(here))
            points = list(zip(due[here].tolist(), took[here].tolist(), strict=True))
            cell.slowest[status] = max(*points, cell.slowest.get(status, points[0]), key=_took)
            cell.points[status] = self._some(cell.points[status] + self._some(points))
        for cell, here in self._cells_of(ended):
            cell.ended += int(np.count_nonzero(here))
        self.last_end_s = max(self.last_end_s, float(ended.max()))
        planned_s = self.plan.arrivals.duration_s
        self.in_time += int(np.count_nonzero(ended <= planned_s)) if planned_s else len(ended)

    def _some(self, points: list[Point]) -> list[Point]:
        return self._random.sample(points, min(len(points), POINTS_KEPT))

    def _cells_of(self, at_s: "np.ndarray[Any, Any]") -> Iterator[tuple[Cell, "np.ndarray[Any, Any]"]]:
        """Each cell that contains some of the moments, with a mask of those moments."""
        while at_s.max() / self.cell_s >= CELLS:
            # Double the length of the cells, so that their number is bounded however long the run is.
            before, self.cells = self.cells, defaultdict(Cell)
            self.cell_s *= 2
            for old, cell in before.items():
                self.cells[old // 2].add(cell, self._random)
        numbers = (at_s / self.cell_s).astype(int)
        for number in np.unique(numbers).tolist():
            yield self.cells[number], numbers == number

    def moment_s(self, at_most: int) -> float:
        """The length of the intervals of `moments`."""
        whole = max(1, math.ceil(max(self.seconds, self.last_end_s) / self.cell_s))
        return self.cell_s * math.ceil(whole / at_most)

    def moments(self, at_most: int) -> list[tuple[float, Cell]]:
        """The timeline in intervals of equal length, with the middle of each; an incomplete last one is left out."""
        length_s = self.moment_s(at_most)
        cells_each = round(length_s / self.cell_s)
        moments: list[tuple[float, Cell]] = []
        for number in range(max(1, int(max(self.seconds, self.last_end_s) / length_s + 1e-9))):
            whole = Cell()
            for at in range(number * cells_each, (number + 1) * cells_each):
                if at in self.cells:
                    whole.add(self.cells[at], self._random)
            moments.append(((number + 0.5) * length_s, whole))
        return moments

    @property
    def answered(self) -> int:
        """The number of correct replies."""
        return sum(histogram.get_total_count() for histogram in self.latency_us.values())

    @property
    def failures(self) -> dict[str, int]:
        """The number of failed requests by code."""
        return {code: histogram.get_total_count() for code, histogram in sorted(self.failed_us.items())}

    @property
    def failed(self) -> int:
        """The number of requests without a correct reply."""
        return sum(self.failures.values())

    @property
    def all_us(self) -> Histogram:
        """The latencies of all correct replies."""
        whole = Histogram()
        for histogram in self.latency_us.values():
            whole.add(histogram)
        return whole

    @property
    def seconds(self) -> float:
        """The duration of the run: as planned, or until it was interrupted or its last request ended."""
        planned_s = self.plan.arrivals.duration_s
        if planned_s and not self.is_closed and not self.is_interrupted:
            return planned_s
        return max(0.001, min(planned_s or math.inf, self.now_s if self.is_interrupted else self.last_end_s))

    @property
    def is_closed(self) -> bool:
        """Whether the speed of the service determined the number of requests."""
        return isinstance(self.plan.arrivals, ClosedLoop)

    def summary(self) -> dict[str, Any]:
        """All measurements as JSON values."""
        made = self.answered + self.failed
        inputs = len(self.inputs) + self._inputs
        failures, warm_up_s = self.failures, self.plan.arrivals.warm_up_s
        return {
            "name": self.name,
            "model": self.plan.model,
            "loop": "closed" if self.is_closed else "open",
            "interrupted": self.is_interrupted,
            "seed": self.plan.seed,
            "seconds": round(self.seconds, 3),
            "requests": made,
            "offered_per_s": None if self.is_closed else round(made / self.seconds, 1),
            "sent_per_s": round(self.sent / max(self.seconds, self.behind_us.get_max_value() / 1e6), 1),
            "goodput_per_s": round(self.in_time / self.seconds, 1),
            "answers": self.answered,
            "wrong": failures.get(WRONG, 0),
            "missing": failures.get(MISSING, 0),
            "unfinished": self.unfinished_us.get_total_count(),
            "unfinished_after": latency(self.unfinished_us),
            "errors": failures,
            "unawaited_replies": self.unawaited,
            "latency": {status: latency(histogram) for status, histogram in self.by_status().items()},
            "failed_after": {code: latency(histogram) for code, histogram in sorted(self.failed_us.items())},
            "distinct_inputs": inputs,
            "model_calls": self.model_calls,
            "model_calls_per_input": round(self.model_calls / inputs, 3) if inputs else None,
            "most_calls_of_one_input": max(self.calls.values(), default=min(1, self.model_calls)),
            "behind_schedule": latency(self.behind_us),
            "tool_cpu_share": round(max(self.cpu_s.values(), default=0.0) / max(0.001, self.now_s + warm_up_s), 3),
        }

    def by_status(self) -> dict[str, Histogram]:
        """Latencies in microseconds: of all answers, then by cache status."""
        return {"all": self.all_us} | dict(sorted(self.latency_us.items()))


def latency(histogram: Histogram) -> dict[str, float]:
    """Count, mean, percentiles and maximum, in milliseconds."""
    count = histogram.get_total_count()
    if not count:
        return {"count": 0}
    shown = {f"p{percent:g}_ms": histogram.get_value_at_percentile(percent) for percent in PERCENTILES}
    in_us = {"mean_ms": histogram.sum_us / count} | shown | {"max_ms": histogram.get_max_value()}
    return {"count": count} | {name: round(value / 1000, 3) for name, value in in_us.items()}


def _us(seconds: "np.ndarray[Any, Any]") -> "np.ndarray[Any, Any]":
    return np.clip(np.rint(seconds * 1e6), 1, MAX_US).astype(np.int64)


def _took(point: Point) -> float:
    return point[1]
