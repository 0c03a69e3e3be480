"""Trying again: only where that can help, only while there is time, and never so often that it makes things worse."""

import random
from dataclasses import dataclass, field

from prediction_client.errors import PredictionError


@dataclass
class RetryBudget:
    """How many attempts may be second ones: a share of all calls, and a few at once.

    A token bucket as in gRPC's retry throttling (gRFC A6): each call adds `ratio` of a token, each retry takes one.
    While a service is down for everybody, that bounds what retries add to its load.

    Args:
        ratio: retries per call, in the long run.
        burst: tokens at most, and at first.
    """

    ratio: float = 0.1
    burst: float = 100.0
    _tokens: float = field(init=False)

    def __post_init__(self) -> None:
        if self.ratio < 0 or self.burst < 0:
            msg = "ratio and burst must be 0 or more"
            raise ValueError(msg)
        self._tokens = self.burst

    def note_call(self) -> None:
        """A call was begun."""
        self._tokens = min(self.burst, self._tokens + self.ratio)

    def take(self) -> bool:
        """Whether another retry is affordable; if so, it is paid."""
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


@dataclass(frozen=True)
class Retries:
    """When a failed attempt is followed by another one, and how soon.

    Args:
        attempts: of one call, the first included; 1 for no retries.
        first_delay_s, max_delay_s: between attempts, doubled each time, with full jitter (AWS's architecture blog,
            "Exponential Backoff and Jitter"). A hint of the responder, `retry-after-ms`, is waited for at least.
    """

    attempts: int = 4
    first_delay_s: float = 0.05
    max_delay_s: float = 2.0

    def delay_s(self, error: PredictionError, attempt: int, left_s: float) -> float | None:
        """How long to wait after an attempt failed; None when there is to be no other one.

        Args:
            error: how it failed.
            attempt: its number; 1 for the first.
            left_s: how long the caller still waits.
        """
        if not error.retryable or attempt >= self.attempts:
            return None
        backoff_s = min(self.max_delay_s, self.first_delay_s * 2 ** min(attempt - 1, 60)) * random.random()
        delay_s = (error.retry_after_s or 0.0) + backoff_s
        return delay_s if delay_s < left_s else None


NO_RETRIES = Retries(attempts=1)
