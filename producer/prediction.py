"""What a reply says: a result and where it came from, or a typed error."""

import re
from dataclasses import dataclass
from typing import Any

from lane import Delivery
from producer.errors import PredictionError, error_of
from schemas import CacheStatus, Failure, MalformedReply, decode_reply, parse_cache_status

REPLY_HEADERS = (b"cache-status", b"age", b"model", b"model-version", b"duration-ms", b"retry-after-ms")
_NUMBER = re.compile(r"[0-9]{1,15}")


@dataclass(frozen=True, slots=True)
class Prediction:
    """A result and where it came from.

    Attributes:
        value: the model's output, as a JSON value.
        cache_status: hit, miss, collapsed, and the freshness left (RFC 9211).
        age_s: how old a cached answer is; None for a new one.
        model, model_version: who answered.
        duration_ms: from the responder's receipt to its reply.
    """

    value: Any
    cache_status: CacheStatus
    age_s: int | None
    model: str
    model_version: str
    duration_ms: int


def prediction_of(delivery: Delivery) -> Prediction | PredictionError:
    """What a reply says."""
    headers = {name: value.decode("utf-8", "replace") for name, value in delivery.properties.headers.items() if value}
    try:
        reply = decode_reply(delivery.body or b"")
    except MalformedReply as error:
        return PredictionError(str(error), code="MALFORMED_REPLY")
    if isinstance(reply, Failure):
        retry_after_ms = _number(headers.get(b"retry-after-ms"))
        return error_of(reply, None if retry_after_ms is None else retry_after_ms / 1000)
    return Prediction(
        value=reply.value,
        cache_status=parse_cache_status(headers.get(b"cache-status", "")),
        age_s=_number(headers.get(b"age")),
        model=headers.get(b"model", ""),
        model_version=headers.get(b"model-version", ""),
        duration_ms=_number(headers.get(b"duration-ms")) or 0,
    )


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and _NUMBER.fullmatch(text) else None
