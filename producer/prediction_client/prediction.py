"""The content of a reply: a result and its source, or a typed error."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Generic, TypeVar

from amqp_lane import Delivery
from prediction_client.errors import PredictionError, error_of
from prediction_schemas import CacheStatus, Failure, MalformedReply, decode_reply, parse_cache_status
from prediction_schemas.wire import AGE, CACHE_STATUS, DURATION_MS, MODEL, MODEL_VERSION, RETRY_AFTER_MS

_NUMBER = re.compile(rb"[0-9]{1,15}")
_MAX_HEADER_BYTES = 512


T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Prediction(Generic[T]):
    """A result and its source.

    Attributes:
        value: the model's output, as a JSON value or as the type that the caller asked for.
        cache_status: hit, miss or collapsed, and the remaining freshness (RFC 9211).
        age_s: the age of the answer in seconds; 0 for a new one.
        model, model_version: the model that answered.
        duration_ms: from receipt of the request by the responder to its reply.
    """

    value: T
    cache_status: CacheStatus
    age_s: int
    model: str
    model_version: str
    duration_ms: int


def prediction_of(delivery: Delivery) -> Prediction[Any] | PredictionError:
    """Decode a reply."""
    headers, body = delivery.properties.headers, delivery.body or b""
    try:
        reply = decode_reply(body)
    except MalformedReply as error:
        return PredictionError(str(error), code="MALFORMED_REPLY")
    if isinstance(reply, Failure):
        retry_after_ms = _number(_header(headers, RETRY_AFTER_MS))
        retry_after_s = None if retry_after_ms is None else retry_after_ms / 1000
        return error_of(reply, retry_after_s, _status(_header(headers, CACHE_STATUS)))
    return Prediction(
        reply.value,
        _status(_header(headers, CACHE_STATUS)),
        _number(_header(headers, AGE)) or 0,
        _text(_header(headers, MODEL)),
        _text(_header(headers, MODEL_VERSION)),
        _number(_header(headers, DURATION_MS)) or 0,
    )


def _header(headers: Mapping[bytes, bytes | None], name: bytes) -> bytes:
    """The value of a header. A longer value than the contract allows counts as absent, so the memos never keep it."""
    value = headers.get(name)
    return value if value is not None and len(value) <= _MAX_HEADER_BYTES else b""


# Few distinct values repeat in most replies, so their decoded forms are memoised.
@lru_cache(maxsize=1024)
def _status(header: bytes) -> CacheStatus:
    return parse_cache_status(_text(header))


@lru_cache(maxsize=1024)
def _text(header: bytes) -> str:
    return header.decode("utf-8", "replace")


@lru_cache(maxsize=4096)
def _number(header: bytes) -> int | None:
    return int(header) if _NUMBER.fullmatch(header) else None
