"""Replies to AMQP messages, by version 1 of the wire contract."""

import math
import re
from functools import lru_cache

from amqp_lane import Delivery, Message, Template, header_field
from prediction_responder.messages import Model, Outcome, Reply
from prediction_schemas import CacheStatus
from prediction_schemas.wire import (
    AGE,
    CACHE_STATUS,
    DIRECT_REPLY_TO,
    DURATION_MS,
    ERROR,
    JSON,
    MODEL,
    MODEL_VERSION,
    RESULT,
    RETRY_AFTER_MS,
    TRACEPARENT,
    WIRE,
    WIRE_VERSION,
)

_TRACEPARENT = re.compile(rb"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}[\x21-\x7e]{0,200}")  # W3C Trace Context
# Persistent: its request is acknowledged once it is confirmed, so in a durable queue it must survive the broker.
_RESULT, _ERROR = (Template(content_type=JSON, type=kind, persistent=True) for kind in (RESULT, ERROR))
_LATE_REPLY_S = 1.0  # how long a reply past its deadline, mostly an error, may still be written


def message_of(reply: Reply, now: float) -> Message:
    """The message that carries a reply to its caller."""
    request = reply.request
    left_ms, give_up_at = None, math.inf
    if request.has_deadline:
        left_ms = max(1, round((request.deadline - now) * 1000))
        give_up_at = max(request.deadline, now + _LATE_REPLY_S)
    duration_ms = round((now - request.received_at) * 1000)
    return compose(request.token, reply.outcome, reply.status, request.model, left_ms, duration_ms, give_up_at)


def compose(
    delivery: Delivery,
    outcome: Outcome,
    status: CacheStatus,
    model: Model,
    expiration_ms: int | None = None,
    duration_ms: int = 0,
    give_up_at: float = math.inf,
) -> Message:
    """A reply as a message. It copies `reply_to`, the identifiers and the trace of the request, and nothing else."""
    given = delivery.properties
    reply_to = given.reply_to or b""
    is_direct = reply_to.startswith(DIRECT_REPLY_TO)
    fields = (
        _model_fields(model.name, model.version)
        + _status_fields(status.encoded, outcome.age_s)
        + _duration(duration_ms)
    )
    if outcome.retry_after_ms is not None:
        fields += header_field(RETRY_AFTER_MS, b"%d" % outcome.retry_after_ms)
    if given.headers:
        trace = given.headers.get(TRACEPARENT)
        if trace is not None and _TRACEPARENT.fullmatch(trace):
            fields += header_field(TRACEPARENT, trace)
    return Message(
        reply_to,
        outcome.body,
        _RESULT if outcome.code is None else _ERROR,
        given.correlation_id if given.correlation_id is not None else given.message_id,
        None if expiration_ms is None or is_direct else b"%d" % expiration_ms,
        fields,
        # With direct reply-to, broker versions give `mandatory` opposite meanings, and a retry to an address whose
        # connection failed could break the next connection too.
        mandatory=not is_direct,
        retry=not is_direct,
        give_up_at=give_up_at,
        token=delivery,
    )


@lru_cache(maxsize=256)
def _model_fields(name: str, version: str) -> bytes:
    named = header_field(MODEL, name.encode()) + header_field(MODEL_VERSION, version.encode())
    return named + header_field(WIRE, WIRE_VERSION)


@lru_cache(maxsize=8192)
def _status_fields(status: bytes, age_s: int) -> bytes:
    return header_field(CACHE_STATUS, status) + header_field(AGE, b"%d" % age_s)


@lru_cache(maxsize=4096)
def _duration(duration_ms: int) -> bytes:
    return header_field(DURATION_MS, b"%d" % duration_ms)
