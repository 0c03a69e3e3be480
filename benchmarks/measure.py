"""Calls that were made, counted honestly: only a correct reply is a reply."""

import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import numpy as np

from producer import Prediction, PredictionError


@dataclass(frozen=True, slots=True)
class Call:
    """One call: when it began, in seconds since the phase did, how long it took, and how it ended."""

    began_s: float
    took_s: float
    status: str


@dataclass
class Phase:
    """One part of the demo and its calls.

    Attributes:
        name: shown in the table.
        distinct: how many different inputs were sent.
        calls: every call, correct or not.
        wrong: replies that differ from what the model must answer.
        errors: calls that ended without a reply, by code.
        model_calls: how often the model ran, by the responder's own count.
    """

    name: str
    distinct: int
    calls: list[Call] = field(default_factory=list)
    wrong: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    model_calls: int = 0
    seconds: float = 0.0
    _began: float = field(default_factory=time.perf_counter)

    async def call(self, ask: Awaitable[Prediction], is_right: Callable[[Prediction], bool]) -> None:
        """Make one call and record it."""
        began = time.perf_counter()
        try:
            prediction = await ask
        except PredictionError as error:
            self.errors[error.code] += 1
            return
        took_s = time.perf_counter() - began
        if not is_right(prediction):
            self.wrong += 1
            return
        self.calls.append(Call(began - self._began, took_s, prediction.cache_status.kind))

    def finish(self, model_calls: int) -> None:
        """End the phase."""
        self.seconds = time.perf_counter() - self._began
        self.model_calls = model_calls

    @property
    def failed(self) -> int:
        """Calls without a correct reply."""
        return self.wrong + sum(self.errors.values())

    def of_status(self, status: str) -> list[float]:
        """Latencies of the replies of one cache status, in seconds."""
        return [call.took_s for call in self.calls if call.status == status]

    def latencies(self) -> dict[str, list[float]]:
        """Latencies in seconds: all of them, then by cache status."""
        statuses = sorted({call.status for call in self.calls})
        return {"all": [call.took_s for call in self.calls]} | {one: self.of_status(one) for one in statuses}


def summary(latencies_s: list[float]) -> dict[str, float]:
    """Count, mean and percentiles, in milliseconds."""
    values = np.array(latencies_s) * 1000
    percentiles = np.percentile(values, [50, 95, 99])
    return {
        "count": len(latencies_s),
        "mean_ms": round(float(values.mean()), 2),
        "p50_ms": round(float(percentiles[0]), 2),
        "p95_ms": round(float(percentiles[1]), 2),
        "p99_ms": round(float(percentiles[2]), 2),
        "max_ms": round(float(values.max()), 2),
    }
