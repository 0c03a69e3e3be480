"""What all processes have measured, in bounded memory: histograms by outcome, and a timeline."""

import math
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random
from typing import Any

import numpy as np
from hdrh.histogram import HdrHistogram

from prediction_client.load.arrivals import ClosedLoop
from prediction_client.load.ledger import ASKED_NOBODY, MISSING, WRONG
from prediction_client.load.plan import Plan
from prediction_client.load.shipment import Calls, Shipment

MAX_US = 3_600_000_000
CELLS = 480
FIRST_CELL_S = 0.125
POINTS_KEPT = 6  # of each cell and status, to be drawn, and the slowest
PERCENTILES = (50, 95, 99, 99.9)


Point = tuple[float, float]


class Histogram(HdrHistogram):  # type: ignore[misc] # it has no types
    """Of microseconds; it knows its mean exactly, and without a walk over its counters."""

    def __init__(self, digits: int = 3) -> None:
        super().__init__(1, MAX_US, digits)
        self.sum_us = 0

    def record(self, values_us: "np.ndarray[Any, Any]") -> None:
        """Take values in."""
        self.sum_us += int(values_us.sum())
        for value, count in zip(*(part.tolist() for part in np.unique(values_us, return_counts=True)), strict=True):
            self.record_value(value, count)

    def add(self, other: "Histogram") -> None:
        """Become both."""
        super().add(other)
        self.sum_us += other.sum_us


@dataclass
class Cell:
    """The requests of a moment, by the time at which they were to begin; `ended` by that of the reply.

    Attributes:
        latency_us: of all answers.
        answers: by cache status.
        failures: of any kind.
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
        """Become both."""
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
        plan: what was asked for.
        name: what sets it apart from others, e.g. `without the cache`.
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
        self._remembers_inputs = plan.inputs.popularity.name != "distinct"  # where each is new, there may be very many
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
        """Take in what a process says."""
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
        if status not in ASKED_NOBODY:
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
        """The cells that moments lie in, and which of the moments do."""
        while at_s.max() / self.cell_s >= CELLS:
            # Cells become twice as long, so that a long run has no more of them than a short one.
            before, self.cells = self.cells, defaultdict(Cell)
            self.cell_s *= 2
            for old, cell in before.items():
                self.cells[old // 2].add(cell, self._random)
        numbers = (at_s / self.cell_s).astype(int)
        for number in np.unique(numbers).tolist():
            yield self.cells[number], numbers == number

    def moment_s(self, at_most: int) -> float:
        """How long the pieces of `moments` are."""
        whole = max(1, math.ceil(max(self.seconds, self.last_end_s) / self.cell_s))
        return self.cell_s * math.ceil(whole / at_most)

    def moments(self, at_most: int) -> list[tuple[float, Cell]]:
        """The timeline in pieces of equal length, and the middle of each; one that is not over is left out."""
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
        """Correct replies; nothing else is counted as one."""
        return sum(histogram.get_total_count() for histogram in self.latency_us.values())

    @property
    def failures(self) -> dict[str, int]:
        """How many requests have failed, by code."""
        return {code: histogram.get_total_count() for code, histogram in sorted(self.failed_us.items())}

    @property
    def failed(self) -> int:
        """Requests without a correct reply."""
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
        """How long the run was: as long as planned, or until it was ended or its last request had ended."""
        planned_s = self.plan.arrivals.duration_s
        if planned_s and not self.is_closed and not self.is_interrupted:
            return planned_s
        return max(0.001, min(planned_s or math.inf, self.now_s if self.is_interrupted else self.last_end_s))

    @property
    def is_closed(self) -> bool:
        """Whether the service has decided how much it was asked."""
        return isinstance(self.plan.arrivals, ClosedLoop)

    def summary(self) -> dict[str, Any]:
        """Everything as JSON values."""
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
