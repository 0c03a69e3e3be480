"""Explains one input: its key, what is cached for it, and how a request would be answered."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel
from pydantic_core import to_json, to_jsonable_python

from prediction_responder.cache import Inspected, LeaseStore
from prediction_responder.cache.generation import read_generation
from prediction_responder.cache.value import (
    CoolDown,
    Entry,
    LeaseMark,
    Outdated,
    Standing,
    Unreadable,
    Unshared,
    read,
    read_failures,
)
from prediction_responder.clock import Clock
from prediction_responder.execution.served import ServedModel
from prediction_responder.flight.freshness import is_fresh
from prediction_responder.messages import Key, Refused
from prediction_responder.operate.decision import decision
from prediction_schemas import NO_DIRECTIVES, Directives, parse_cache_control
from prediction_schemas.canonical import NotCanonical, canonical_bytes


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
        kept_for_s: seconds until the cache deletes the cached answer.
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


@dataclass(frozen=True)
class Subject:
    """Whose answer is explained.

    Args:
        model, version: of the predictor.
        stale_s: seconds past the TTL in which every request accepts its stale answer.
        canonical: the input's canonical form.
        key: of the answer.
    """

    model: str
    version: str
    stale_s: float
    canonical: bytes
    key: Key


def subject_of(model: ServedModel, tenant: bytes, body: bytes) -> Subject:
    """The answer to this input of a model whose keys are known.

    Raises:
        Refused, NotCanonical: the input is not valid.
    """
    canonical = canonical_bytes(model.read(body))
    return Subject(model.name, model.version, model.stale_s, canonical, model.keys.key(tenant, canonical))


def subject_for(models: Sequence[ServedModel], model: str, features: BaseModel | Any, tenant: str) -> Subject:
    """The answer to an input of one of these models.

    Raises:
        ValueError: none of them has this name, or the input is not valid.
    """
    found = [one for one in models if one.name == model]
    if not found:
        msg = f"no model {model!r} is served here, only {', '.join(one.name for one in models)}"
        raise ValueError(msg)
    if isinstance(features, BaseModel):  # as the client writes it
        plain = features.model_dump(mode="json", exclude_computed_fields=True)
    else:
        plain = to_jsonable_python(features, by_alias=False)
    try:
        return subject_of(found[0], tenant.encode(), to_json(plain))
    except (Refused, NotCanonical) as error:
        raise ValueError(str(error)) from None


def read_directives(cache_control: str) -> Directives:
    """The directives of a request.

    Raises:
        ValueError: they cannot be read; the message says how they are written.
    """
    directives = parse_cache_control(cache_control.encode()) if cache_control else NO_DIRECTIVES
    if directives.malformed:
        msg = f"cannot parse the directives {cache_control!r}; write them like max-age=5, no-cache"
        raise ValueError(msg)
    return directives


async def explain(
    store: LeaseStore, subject: Subject, clock: Clock, directives: Directives = NO_DIRECTIVES
) -> Explanation:
    """Explain how the next request with this input would be answered, and why.

    Args:
        directives: of that request.

    Raises:
        CacheUnavailable: within the operation timeout.
    """
    key = subject.key
    seen = await store.inspect(key)
    now_ms = clock.now_ms()
    record = read_generation(seen.generation)
    current = record.current if record is not None else b""
    place, refresh = read(key.digest, current, seen.value), read(key.digest, current, seen.refresh)
    state = _state(place, now_ms)
    usable = place if isinstance(place, Entry) else None
    return Explanation(
        model=subject.model,
        version=subject.version,
        canonical=subject.canonical.decode("utf-8", "backslashreplace"),
        key=key.digest.hex(),
        name=key.name,
        generation=current.hex() or None,
        state=state,
        why=_WHY[state],
        decision=decision(usable, directives, now_ms, subject.stale_s, _marks(place, refresh)),
        leader=_leader(place, seen.left_ms),
        refresher=_leader(refresh, seen.refresh_left_ms),
        failures=read_failures(current or b"?", seen.failures)[0],
        attempts=len(seen.starts),
        waiting=seen.waiting,
        **_facts(place, seen, now_ms),
    )


def _facts(place: Standing, seen: Inspected, now_ms: int) -> dict[str, Any]:
    entry = place.content if isinstance(place, Outdated) else place
    if not isinstance(entry, Entry):
        return {}
    return {
        "age_s": round((now_ms - entry.stored_at_ms) / 1000, 3),
        "fresh_for_s": round((entry.fresh_until_ms - now_ms) / 1000, 3),
        "kept_for_s": seen.left_ms / 1000,
        "model_ms": entry.duration_ms,
        "body_bytes": len(entry.body),
        "negative": entry.code is not None,
    }


def _state(place: Standing, now_ms: int) -> str:
    match place:
        case None:
            return "none"
        case Entry():
            return "fresh" if is_fresh(place, now_ms) else "stale"
        case LeaseMark():
            return "lease"
        case CoolDown():
            return "cooling"
        case Unshared():
            return "unshared"
        case Outdated():
            return "other generation"
        case Unreadable():
            return "unreadable"


def _marks(*slots: Standing) -> Sequence[Standing]:
    return [one for one in slots if isinstance(one, LeaseMark | CoolDown | Unshared)]


def _leader(standing: Standing, left_ms: int) -> Leader | None:
    """The holder of a lease, whatever its generation."""
    mark = standing.content if isinstance(standing, Outdated) else standing
    return Leader(mark.replica.hex(), left_ms / 1000) if isinstance(mark, LeaseMark) else None
