"""What an operator asks of the cache: why an answer is or is not there, and that it be given no more."""

import math
import re
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from typing import Any

from responder.cache.entry import (
    GENERATION_BYTES,
    TOKEN_BYTES,
    decode_entry,
    generation_of,
    is_lease,
    is_mark,
    token_of,
    tombstone,
)
from responder.cache.link import InvalidCacheUrl, RedisLink
from responder.cache.memory import LEFT_MS
from responder.cache.port import CacheUnavailable
from responder.keys import DIGEST_BYTES, Key, Keyring, fingerprint, generation_name, value_name
from responder.lease import REPLICA_BYTES
from responder.predictor import Predictor
from responder.reading import Refused, read_input
from responder.settings import Settings
from schemas.canonical import NotCanonical, canonical_bytes


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
        state: fresh, stale, none, lease, invalidated, "other generation" or unreadable.
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
    "invalidated": "the model is called: this answer was invalidated",
    "other generation": "the model is called: the model's answers were invalidated after this one was stored",
    "unreadable": "the model is called: what stands under the name is no answer of this version of the responder",
}


class Operator:
    """Looks into the cache of one deployment.

    Args:
        link: to its Redis.
        namespace: of the deployment.
    """

    def __init__(self, link: RedisLink, namespace: str) -> None:
        self._link = link
        self._namespace = namespace

    async def invalidate_model(self, model: str) -> None:
        """Make every answer of a model a miss, on every replica, from the next look-up on; those in the air too."""
        name = generation_name(self._namespace, model)
        await self._link.ask("SET", name, secrets.token_bytes(GENERATION_BYTES))

    async def invalidate_all(self) -> list[str]:
        """The same for every model of the namespace that has ever been asked; their names."""
        prefix, cursor, models = generation_name(self._namespace, ""), b"0", set()
        while True:
            cursor, names = await self._link.ask("SCAN", cursor, "MATCH", f"{prefix}*", "COUNT", 1000)
            models |= {name.decode().removeprefix(prefix) for name in names}
            if cursor == b"0":
                break
        for model in models:
            await self.invalidate_model(model)
        return sorted(models)

    async def invalidate_key(self, digest: bytes) -> bool:
        """Make one answer a miss; whether anything was there. A flight in the air may end, but stores nothing.

        The refresh first: otherwise one that ends in between would put its answer over the tombstone.
        """
        name = value_name(f"{self._namespace}pr:{{", digest)
        grave = tombstone(secrets.token_bytes(TOKEN_BYTES))
        await self._link.ask("SET", _beside(name, "r"), grave, "PX", LEFT_MS)
        before = await self._link.ask("SET", name, grave, "GET", "PX", LEFT_MS)
        await self._link.ask("DEL", _beside(name, "a"))
        return before is not None and not is_mark(before)

    async def explain(self, predictor: Predictor, body: bytes, tenant: bytes, *, max_depth: int) -> Explanation:
        """Why the next request with this input is answered as it will be.

        Raises:
            Refused, NotCanonical: the input is not valid.
        """
        canonical = canonical_bytes(read_input(body, predictor.input_type, max_depth=max_depth))
        keyring = Keyring(
            namespace=self._namespace,
            model=predictor.name,
            version=predictor.version,
            fingerprint=fingerprint(predictor.artefacts),
        )
        key = keyring.key(tenant, canonical)
        beside = [_beside(key.name, suffix) for suffix in "ra"]
        asked = [
            self._link.ask(*command)
            for command in (
                ("MGET", key.generation_name, key.name, *beside),
                ("PTTL", key.name),
                ("PTTL", beside[0]),
                ("SCARD", _beside(key.name, "w")),
            )
        ]
        (generation, value, refresh, attempts), left_ms, refresh_left_ms, waiting = [await one for one in asked]
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
            attempts=int(attempts or 0),
            waiting=waiting,
            **facts,
        )


def _state(key: Key, generation: bytes | None, value: bytes | None, now_ms: int) -> tuple[str, dict[str, Any]]:
    if value is None:
        return "none", {}
    if is_lease(value):
        return "lease" if generation_of(value) == generation else "other generation", {}
    if is_mark(value):
        return "invalidated", {}
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


def _beside(name: str, suffix: str) -> str:
    return f"{name[:-1]}{suffix}"


def digest_of(text: str) -> bytes:
    """A key as `explain` prints it.

    Raises:
        ValueError: it is none.
    """
    if re.fullmatch(f"[0-9a-fA-F]{{{2 * DIGEST_BYTES}}}", text) is None:
        msg = f"a key has {2 * DIGEST_BYTES} hexadecimal digits; `responder explain` prints it"
        raise ValueError(msg)
    return bytes.fromhex(text)


class CannotOperate(Exception):
    """Redis cannot be asked; the message says why."""


async def explained(settings: Settings, predictor: Predictor, body: bytes, tenant: bytes) -> dict[str, Any]:
    """`responder explain`.

    Raises:
        ValueError: the input is not valid.
        CannotOperate: Redis does not answer.
    """
    async with _operator(settings) as operator:
        try:
            return asdict(await operator.explain(predictor, body, tenant, max_depth=settings.max_depth))
        except (Refused, NotCanonical) as error:
            raise ValueError(str(error)) from None


async def invalidated(settings: Settings, model: str | None, key: str | None) -> dict[str, Any]:
    """`responder invalidate`: a model, an answer, or, with neither, everything.

    Raises:
        ValueError: the key is none.
        CannotOperate: Redis does not answer.
    """
    digest = None if key is None else digest_of(key)
    async with _operator(settings) as operator:
        if model is not None:
            await operator.invalidate_model(model)
            return {"done": f"all answers of {model}", "models": [model]}
        if digest is not None:
            found = await operator.invalidate_key(digest)
            return {"done": f"the answer of {key}" if found else f"nothing was cached of {key}", "found": found}
        models = await operator.invalidate_all()
        return {"done": f"all answers of {', '.join(models) or 'no model: none has been asked'}", "models": models}


@asynccontextmanager
async def _operator(settings: Settings) -> AsyncIterator[Operator]:
    url = settings.redis_url.get_secret_value()
    if url == "memory://":
        msg = "REDIS_URL is memory://: each responder has a cache of its own, which ends with it"
        raise CannotOperate(msg)
    try:
        async with RedisLink(url, timeout_s=max(2.0, settings.redis_timeout_s)) as link:
            yield Operator(link, settings.namespace)
    except (CacheUnavailable, InvalidCacheUrl) as error:
        msg = f"Redis: {error}"
        raise CannotOperate(msg) from None
