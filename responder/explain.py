"""Why an answer is in the cache, or is not: what is known of one input."""

import math
import time
from dataclasses import dataclass
from typing import Any

from responder.cache.entry import decode_entry, generation_of, is_lease, token_of
from responder.cache.link import RedisLink
from responder.cache.port import Place, Slot, attempts_name
from responder.keys import Key, Keyring, beside_name, fingerprint
from responder.lease import REPLICA_BYTES
from responder.predictor import Predictor
from responder.reading import read_input
from schemas.canonical import canonical_bytes


@dataclass(frozen=True)
class Leader:
    """Who works on an answer: its replica's id, as that logged it at its start, and when its lease ends."""

    replica: str
    lease_left_s: float


@dataclass(frozen=True)
class Explanation:
    """What is known of one input's answer.

    Args:
        canonical: the input's canonical form, which the key is made of.
        key: its digest, for `invalidate --key`.
        name: of the value in Redis.
        state: fresh, stale, none, lease, "other generation" or unreadable.
        why: what the next request for it meets.
        attempts: how often the model was started for it and never came to an end.
        waiting: how many replicas wait for its leader.
    """

    model: str
    version: str
    canonical: str
    key: str
    name: str
    generation: str | None
    state: str
    why: str
    age_s: float | None = None
    fresh_for_s: float | None = None
    model_ms: int | None = None
    body_bytes: int | None = None
    leader: Leader | None = None
    refresher: Leader | None = None
    attempts: int = 0
    waiting: int = 0


_WHY = {
    "fresh": "it is answered from the cache",
    "stale": "the model is called: the cached answer is past its time to live",
    "none": "the model is called: nothing is cached",
    "lease": "it waits for the replica that is calling the model",
    "other generation": "the model is called: the model's answers were invalidated after this one was stored",
    "unreadable": "the model is called: what stands under the name is no answer of this version of the responder",
}


async def explain(
    link: RedisLink, namespace: str, predictor: Predictor, body: bytes, tenant: bytes, *, max_depth: int
) -> Explanation:
    """Why the next request with this input is answered as it will be.

    Raises:
        Refused, NotCanonical: the input is not valid.
    """
    canonical = canonical_bytes(read_input(body, predictor.input_type, max_depth=max_depth))
    keyring = Keyring(
        namespace=namespace,
        model=predictor.name,
        version=predictor.version,
        fingerprint=fingerprint(predictor.artefacts),
    )
    key = keyring.key(tenant, canonical)
    places = [Place(key.name, slot) for slot in Slot]
    beside = [beside_name(key.name, "r"), *map(attempts_name, places)]
    asked = [
        link.ask(*command)
        for command in (
            ("MGET", key.generation_name, key.name, *beside),
            ("PTTL", key.name),
            ("PTTL", beside[0]),
            ("SCARD", beside_name(key.name, "w")),
        )
    ]
    (generation, value, refresh, *attempts), left_ms, refresh_left_ms, waiting = [await one for one in asked]
    state, facts = _state(key, generation, value, round(time.time() * 1000))
    return Explanation(
        model=predictor.name,
        version=predictor.version,
        canonical=canonical.decode("utf-8", "backslashreplace"),
        key=key.digest.hex(),
        name=key.name,
        generation=generation.hex() if generation else None,
        state=state,
        why=_WHY[state],
        leader=_leader(value, left_ms),
        refresher=_leader(refresh, refresh_left_ms),
        attempts=sum(int(count or 0) for count in attempts),
        waiting=waiting,
        **facts,
    )


def _state(key: Key, generation: bytes | None, value: bytes | None, now_ms: int) -> tuple[str, dict[str, Any]]:
    if value is None:
        return "none", {}
    if is_lease(value):
        return "lease" if generation_of(value) == generation else "other generation", {}
    entry = decode_entry(key.digest, generation_of(value), value)
    if entry is None:
        return "unreadable", {}
    facts = {
        "age_s": round((now_ms - entry.stored_at_ms) / 1000, 3),
        "fresh_for_s": round((entry.fresh_until_ms - now_ms) / 1000, 3),
        "model_ms": entry.duration_ms,
        "body_bytes": len(entry.body),
    }
    if generation_of(value) != generation:
        return "other generation", facts
    return "fresh" if now_ms < entry.fresh_until_ms else "stale", facts


def _leader(value: bytes | None, left_ms: int) -> Leader | None:
    if value is None or not is_lease(value):
        return None
    return Leader(token_of(value)[:REPLICA_BYTES].hex(), max(0, left_ms) / 1000 if left_ms >= 0 else math.inf)
