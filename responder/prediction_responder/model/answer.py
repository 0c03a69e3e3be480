"""What a model may return and raise beside its plain output."""

from dataclasses import dataclass
from typing import Generic, TypeVar

V = TypeVar("V")
MAX_TTL_S = 10 * 365 * 86_400.0


@dataclass(frozen=True, slots=True)
class Answer(Generic[V]):
    """A model's output with its own cache rules.

    Args:
        value: what the model would have returned.
        ttl_s: seconds for which it is fresh, instead of the predictor's `ttl`; 0 answers only waiting requests.
        store: False keeps it out of the cache.
    """

    value: V
    ttl_s: float | None = None
    store: bool = True

    def __post_init__(self) -> None:
        if self.ttl_s is not None and not 0 <= self.ttl_s <= MAX_TTL_S:
            msg = f"ttl_s must be 0 or more seconds, and at most ten years, not {self.ttl_s!r}"
            raise ValueError(msg)


class InvalidInput(Exception):
    """Raised by a model: this input can never be answered. The caller gets 400 INVALID_ARGUMENT.

    Args:
        message: one sentence for the caller.
        field: the input field at fault, if it is one.
    """

    def __init__(self, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.field = field


class Unavailable(Exception):
    """Raised by a model: it cannot answer now. The caller gets 503 UNAVAILABLE.

    Args:
        retry_after_s: when trying again may help, in seconds.
    """

    def __init__(self, retry_after_s: float | None = None) -> None:
        super().__init__("the model is not available now")
        self.retry_after_s = retry_after_s


class OutputInvalid(ValueError):
    """What a model returned does not fit its declared output, or is not strict JSON."""
