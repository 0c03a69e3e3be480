"""What passes between the wire and the service: a request that can be answered, and its reply."""

import asyncio
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from schemas import NO_DIRECTIVES, NO_STATUS, CacheStatus, Code, Directives

if TYPE_CHECKING:
    from responder.model import ServedModel


@dataclass(slots=True, eq=False)
class Request:
    """One question. Times are of the event loop's clock, in seconds.

    Args:
        model: who is asked.
        body: the raw input.
        tenant: the namespace of its key.
        received_at: when it came.
        deadline: when nobody waits for it any more; at most the model's own limit after its receipt.
        has_deadline: whether the requester set one.
        directives: what it asks of the cache.
        token: how the wire finds the requester again; the service never looks at it.
    """

    model: "ServedModel"
    body: bytes
    tenant: bytes
    received_at: float
    deadline: float
    has_deadline: bool = False
    directives: Directives = NO_DIRECTIVES
    token: Any = None
    timer: asyncio.TimerHandle | None = None


@dataclass(slots=True)  # not frozen: three of these are made for every hit, and freezing doubles their price
class Outcome:
    """How a model call ended, for everyone who waited for it.

    Args:
        body: the reply body.
        code: None for a result.
        ttl_s: how long it may be cached; 0 for not at all.
        duration_ms: how long the model took.
        retry_after_ms: for errors that may pass.
        status: where it came from, as the one who led sees it.
        age_s: of the answer; 0 for a new one.
    """

    body: bytes
    code: Code | None = None
    ttl_s: float = 0.0
    duration_ms: int = 0
    retry_after_ms: int | None = None
    status: CacheStatus = NO_STATUS
    age_s: int = 0


_ERROR_HEAD = struct.Struct(">IB")


def encode_error(outcome: Outcome) -> bytes:
    """An error as bytes, for those who wait on other replicas."""
    name = (outcome.code or Code.INTERNAL).name.encode()
    retry = 0 if outcome.retry_after_ms is None else min(outcome.retry_after_ms + 1, 2**32 - 1)
    return _ERROR_HEAD.pack(retry, len(name)) + name + outcome.body


def decode_error(content: bytes) -> Outcome:
    """The error in such bytes. A code of a later version is INTERNAL to us; the body says what it is."""
    retry, length = _ERROR_HEAD.unpack_from(content)
    end = _ERROR_HEAD.size + length
    code = Code.__members__.get(content[_ERROR_HEAD.size : end].decode("ascii", "replace"), Code.INTERNAL)
    return Outcome(content[end:], code, retry_after_ms=retry - 1 if retry else None)


@dataclass(slots=True)
class Reply:
    """What to send for one request."""

    request: Request
    outcome: Outcome
    status: CacheStatus
