"""Retries: of transient errors only, within the call's timeout, and within a budget that bounds the extra load."""

import random
from dataclasses import dataclass, field

from prediction_client.errors import PredictionError


@dataclass
class RetryBudget:
    """Bounds retries to a share of all calls, plus a burst.

    A token bucket as in gRPC's retry throttling (gRFC A6): each call adds `ratio` of a token, each retry takes one.
    While the service is down, the budget bounds the load that retries add.

    Args:
        ratio: retries per call, in the long run.
        burst: the size of the bucket, which starts full.
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
        """Add the tokens of a new call."""
        self._tokens = min(self.burst, self._tokens + self.ratio)

    def take(self) -> bool:
        """Take a token for a retry; False if there is none."""
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


@dataclass(frozen=True)
class Retries:
    """When to retry a failed attempt, and after which delay.

    Args:
        attempts: the most attempts of one call, the first included; 1 for no retries.
        first_delay_s, max_delay_s: the delay between attempts: doubled each time, with full jitter (AWS's architecture
            blog, "Exponential Backoff and Jitter"). It is added to the responder's hint, `retry-after-ms`.
    """

    attempts: int = 4
    first_delay_s: float = 0.05
    max_delay_s: float = 2.0

    def delay_s(self, error: PredictionError, attempt: int, left_s: float) -> float | None:
        """How long to wait before the next attempt; None for no further attempt.

        Args:
            error: the error of the failed attempt.
            attempt: the number of the failed attempt; 1 for the first.
            left_s: how long the caller still waits.
        """
        if not error.retryable or attempt >= self.attempts:
            return None
        backoff_s = min(self.max_delay_s, self.first_delay_s * 2 ** min(attempt - 1, 60)) * random.random()
        delay_s = (error.retry_after_s or 0.0) + backoff_s
        return delay_s if delay_s < left_s else None


NO_RETRIES = Retries(attempts=1)
