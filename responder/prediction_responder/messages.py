"""Requests, outcomes and replies, between the transport and the service. This module knows no model class."""

import asyncio
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from prediction_schemas import NO_DIRECTIVES, NO_STATUS, CacheStatus, Code, Directives, encode_failure


class Key(NamedTuple):
    """The key of one answer.

    Args:
        digest: 16 bytes. The stored value repeats them, so a value under the wrong name is recognised.
        name: of the value in Redis.
        generation_name: of the model's generation in Redis. A value of another generation is a miss.
    """

    digest: bytes
    name: str
    generation_name: str = ""


class Model(Protocol):
    """What the service needs of a model. `execution.served.ServedModel` is the real one.

    Attributes:
        name, version: sent in every reply.
        timeout_s: limit of one call, and so of every request.
        stale_s: seconds past the TTL in which every request accepts a stale answer.
        keep_s: seconds past the TTL in which a stale answer is kept for requests that ask for it.
        concurrency: calls that may run at once.
    """

    name: str
    version: str
    timeout_s: float
    stale_s: float
    keep_s: float
    concurrency: int

    @property
    def is_busy(self) -> bool:
        """Whether a call would have to wait for a permit."""

    def key_of(self, request: "Request") -> Key:
        """The key of a request's answer. If the input had to be validated for it, that is noted as the request's value.

        Raises:
            Refused: the input is not valid (400), or the model is not loaded (503).
        """

    def confirm(self, request: "Request", key: Key) -> bool:
        """Whether a key is still that of a request, whose input is validated if that was not done before.

        Raises:
            Refused: the input is not valid any more.
        """

    def retry_after_ms(self, waiting: int) -> int:
        """How long a caller should wait before it tries again, behind this many waiting calls."""

    async def answer(self, value: "Input", on_start: Callable[[], None]) -> "Outcome":
        """Call the model once. Every ending of the call is an outcome; only cancellation is raised."""


@dataclass(slots=True, eq=False)
class Request:
    """One request. Times are seconds on the event loop's clock.

    Args:
        model: the model that is asked.
        body: the raw input.
        value: the validated input; None if its key was known without that.
        tenant: the namespace of its key.
        received_at: when it arrived.
        deadline: when the caller stops waiting; at most the model's own limit after `received_at`.
        has_deadline: whether the caller set one.
        directives: what it accepts from the cache.
        token: the transport's handle of the request. The service never looks at it.
        timer: fires at the deadline while the request waits for a flight.
    """

    model: Model
    body: bytes
    tenant: bytes
    received_at: float
    deadline: float
    has_deadline: bool = False
    directives: Directives = NO_DIRECTIVES
    token: Any = None
    value: Any = None
    timer: asyncio.TimerHandle | None = None


@dataclass(slots=True)
class Input:
    """An input, which is validated once for its key and its first call.

    A model may change what it is given, so each further call gets a fresh value from the bytes.

    Args:
        body: the raw input.
        value: the validated input; None if there is none yet.
    """

    body: bytes
    value: Any = None

    def take(self, read: Callable[[bytes], Any]) -> Any:
        """The validated input, for one call; `read` validates the bytes."""
        value, self.value = self.value, None
        return read(self.body) if value is None else value


@dataclass(slots=True)  # not frozen: every hit makes three of these, and freezing doubles the cost
class Outcome:
    """How a model call ended, for every request that waited for it.

    Args:
        body: the reply body.
        code: None for a result.
        ttl_s: how long it may be cached; 0 for not at all.
        duration_ms: how long the model took.
        retry_after_ms: for errors that a retry may cure.
        status: the cache status for the request that began the flight.
        age_s: age of the answer; 0 for a new one.
    """

    body: bytes
    code: Code | None = None
    ttl_s: float = 0.0
    duration_ms: int = 0
    retry_after_ms: int | None = None
    status: CacheStatus = NO_STATUS
    age_s: int = 0


def failure(
    code: Code,
    message: str,
    *,
    details: dict[str, Any] | None = None,
    retry_after_ms: int | None = None,
) -> Outcome:
    """An error as an outcome."""
    return Outcome(encode_failure(code, message, details), code, retry_after_ms=retry_after_ms)


class Refused(Exception):
    """A request that is answered with an error and never reaches the model."""

    def __init__(self, code: Code, message: str, details: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.details = details or {}

    @property
    def outcome(self) -> Outcome:
        """The error as the outcome of its request."""
        return failure(self.code, self.message, details=self.details)


@dataclass(slots=True)
class Reply:
    """What to send for one request."""

    request: Request
    outcome: Outcome
    status: CacheStatus


_ERROR_HEAD = struct.Struct(">IB")


def encode_error(outcome: Outcome) -> bytes:
    """An error as bytes, for followers on other replicas."""
    name = (outcome.code or Code.INTERNAL).name.encode()
    retry = 0 if outcome.retry_after_ms is None else min(outcome.retry_after_ms + 1, 2**32 - 1)
    return _ERROR_HEAD.pack(retry, len(name)) + name + outcome.body


def decode_error(content: bytes) -> Outcome:
    """Reverse `encode_error`. A code of a later version becomes INTERNAL; the body keeps the original one."""
    retry, length = _ERROR_HEAD.unpack_from(content)
    end = _ERROR_HEAD.size + length
    code = Code.__members__.get(content[_ERROR_HEAD.size : end].decode("ascii", "replace"), Code.INTERNAL)
    return Outcome(content[end:], code, retry_after_ms=retry - 1 if retry else None)
