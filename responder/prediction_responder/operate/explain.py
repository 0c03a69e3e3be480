"""Explains one input: its key, what is cached for it, and how a request would be answered."""

import math
import time
from dataclasses import dataclass
from typing import Any

from prediction_responder.cache.keys import Keyring, beside_name
from prediction_responder.cache.port import Place, Slot, attempts_name
from prediction_responder.cache.redis_link import RedisLink
from prediction_responder.cache.value import (
    Entry,
    decode_entry,
    generation_of,
    is_cool_down,
    is_lease,
    is_unshared,
    read_failures,
    token_of,
)
from prediction_responder.execution.input import MAX_VALUES, read_input
from prediction_responder.flight.freshness import is_fresh
from prediction_responder.flight.lease import REPLICA_BYTES
from prediction_responder.messages import Key
from prediction_responder.model.artefacts import fingerprint
from prediction_responder.model.predictor import AnyPredictor
from prediction_responder.operate.decision import decision
from prediction_schemas import NO_DIRECTIVES, Directives
from prediction_schemas.canonical import canonical_bytes


@dataclass(frozen=True)
class Leader:
    """The replica that computes an answer: its id, as it logged it at its start, and how long its lease still lasts."""

    replica: str
    lease_left_s: float


@dataclass(frozen=True)
class Explanation:
    """What is known of one input's answer.

    Args:
        canonical: the input's canonical form, which the key is made of.
        key: its digest, for `invalidate --key`.
        name: of the value in Redis.
        state: fresh, stale, none, lease, cooling, unshared, "other generation" or unreadable.
        why: the state in words.
        decision: how a request with these directives would be answered now.
        negative: whether the cached answer is a refusal of this input.
        kept_for_s: seconds until Redis deletes the cached answer.
        failures: how many times in a row the model failed on this input.
        attempts: the crash count: model calls for this input that started and have not ended.
        waiting: how many followers wait for the leader.
    """

    model: str
    version: str
    canonical: str
    key: str
    name: str
    generation: str | None
    state: str
    why: str
    decision: str
    age_s: float | None = None
    fresh_for_s: float | None = None
    kept_for_s: float | None = None
    negative: bool = False
    model_ms: int | None = None
    body_bytes: int | None = None
    leader: Leader | None = None
    refresher: Leader | None = None
    failures: int = 0
    attempts: int = 0
    waiting: int = 0


_WHY = {
    "fresh": "the cached answer is within its TTL",
    "stale": "the cached answer is past its TTL",
    "none": "nothing is cached",
    "lease": "a replica is calling the model",
    "cooling": "the model failed on this input and is not called during the cool-down",
    "unshared": "the answer is too large for the cache, and replicas do not wait for each other",
    "other generation": "the model's answers were invalidated after this one was stored",
    "unreadable": "the stored value is not an answer of this version of the responder",
}


async def explain(
    link: RedisLink,
    namespace: str,
    predictor: AnyPredictor,
    body: bytes,
    tenant: bytes,
    *,
    max_depth: int,
    max_values: int = MAX_VALUES,
    directives: Directives = NO_DIRECTIVES,
    stale_s: float = 0.0,
) -> Explanation:
    """Explain how the next request with this input would be answered, and why.

    Args:
        directives: of that request.
        stale_s: seconds past the TTL in which every request accepts a stale answer, unless the predictor sets its own.

    Raises:
        Refused, NotCanonical: the input is not valid.
    """
    canonical = canonical_bytes(read_input(body, predictor.input_type, max_depth=max_depth, max_values=max_values))
    keyring = Keyring(
        namespace=namespace,
        model=predictor.name,
        version=predictor.version,
        fingerprint=fingerprint(predictor.files),
    )
    key = keyring.key(tenant, canonical)
    places = [Place(key.name, slot) for slot in Slot]
    beside = [beside_name(key.name, "r"), beside_name(key.name, "f"), *map(attempts_name, places)]
    asked = [
        link.ask(*command)
        for command in (
            ("MGET", key.generation_name, key.name, *beside),
            ("PTTL", key.name),
            ("PTTL", beside[0]),
            ("SCARD", beside_name(key.name, "w")),
        )
    ]
    (generation, value, refresh, failures, *attempts), left_ms, refresh_left_ms, waiting = [await one for one in asked]
    now_ms = round(time.time() * 1000)
    state, entry = _state(key, generation, value, now_ms)
    usable = entry if state in ("fresh", "stale") else None
    if predictor.stale_s is not None:
        stale_s = predictor.stale_s
    facts: dict[str, Any] = {}
    if entry is not None:
        facts = {
            "age_s": round((now_ms - entry.stored_at_ms) / 1000, 3),
            "fresh_for_s": round((entry.fresh_until_ms - now_ms) / 1000, 3),
            "kept_for_s": left_ms / 1000,
            "model_ms": entry.duration_ms,
            "body_bytes": len(entry.body),
            "negative": entry.code is not None,
        }
    return Explanation(
        model=predictor.name,
        version=predictor.version,
        canonical=canonical.decode("utf-8", "backslashreplace"),
        key=key.digest.hex(),
        name=key.name,
        generation=generation.hex() if generation else None,
        state=state,
        why=_WHY[state],
        decision=decision(
            usable, directives, now_ms, stale_s, [mark for mark in (value, refresh) if _counts(mark, generation)]
        ),
        leader=_leader(value, left_ms),
        refresher=_leader(refresh, refresh_left_ms),
        failures=read_failures(generation or b"?", failures or b"")[0],
        attempts=sum(len(starts or b"") // REPLICA_BYTES for starts in attempts),
        waiting=waiting,
        **facts,
    )


def _state(key: Key, generation: bytes | None, value: bytes | None, now_ms: int) -> tuple[str, Entry | None]:
    if value is None:
        return "none", None
    if is_cool_down(value):
        return "cooling" if generation_of(value) == generation else "other generation", None
    if is_lease(value) or is_unshared(value):
        if generation_of(value) != generation:
            return "other generation", None
        return "lease" if is_lease(value) else "unshared", None
    entry = decode_entry(key.digest, generation_of(value), value)
    if entry is None:
        return "unreadable", None
    if generation_of(value) != generation:
        return "other generation", entry
    return "fresh" if is_fresh(entry, now_ms) else "stale", entry


def _leader(value: bytes | None, left_ms: int) -> Leader | None:
    if value is None or not is_lease(value):
        return None
    return Leader(token_of(value)[:REPLICA_BYTES].hex(), max(0, left_ms) / 1000 if left_ms >= 0 else math.inf)


def _counts(mark: bytes | None, generation: bytes | None) -> bool:
    return mark is not None and generation_of(mark) == generation
