"""An operator's commands on the cache: explain an answer, and invalidate answers."""

import re
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import Any

from prediction_responder.cache.keys import DIGEST_BYTES, generation_name, value_name
from prediction_responder.cache.port import CacheUnavailable
from prediction_responder.cache.redis import RedisCache, UnsuitableCache
from prediction_responder.cache.redis_link import InvalidCacheUrl
from prediction_responder.cache.value import GENERATION_BYTES
from prediction_responder.execution.input import MAX_VALUES
from prediction_responder.messages import Refused
from prediction_responder.model.predictor import AnyPredictor
from prediction_responder.operate.explain import Explanation, explain
from prediction_responder.settings import Settings
from prediction_schemas import NO_DIRECTIVES, Directives, parse_cache_control
from prediction_schemas.canonical import NotCanonical


class Operator:
    """Explains and invalidates answers in the cache of one deployment.

    Args:
        cache: its Redis.
        namespace: of the deployment.
    """

    def __init__(self, cache: RedisCache, namespace: str) -> None:
        self._cache = cache
        self._link = cache.link
        self._namespace = namespace

    async def invalidate_model(self, model: str) -> bool:
        """Make every answer of a model a miss on every replica, from now on. Calls in flight store nothing.

        Returns:
            Whether the model was ever asked; if not, there is nothing to invalidate.
        """
        name = generation_name(self._namespace, model)
        return await self._link.ask("SET", name, secrets.token_bytes(GENERATION_BYTES), "XX", "GET") is not None

    async def invalidate_all(self) -> list[str]:
        """Do the same for every model of the namespace that was ever asked. Returns their names."""
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
        """Make one answer a miss. Returns whether it was there. A call in flight goes on, but stores nothing."""
        return await self._cache.fence(value_name(f"{self._namespace}pr:{{", digest))

    async def explain(
        self,
        predictor: AnyPredictor,
        body: bytes,
        tenant: bytes,
        *,
        max_depth: int,
        max_values: int = MAX_VALUES,
        directives: Directives = NO_DIRECTIVES,
        stale_s: float = 0.0,
    ) -> Explanation:
        """See `prediction_responder.operate.explain.explain`."""
        return await explain(
            self._link,
            self._namespace,
            predictor,
            body,
            tenant,
            max_depth=max_depth,
            max_values=max_values,
            directives=directives,
            stale_s=stale_s,
        )


def digest_of(text: str) -> bytes:
    """Parse a key as `explain` prints it.

    Raises:
        ValueError: it is not a key.
    """
    if re.fullmatch(f"[0-9a-fA-F]{{{2 * DIGEST_BYTES}}}", text) is None:
        msg = f"a key has {2 * DIGEST_BYTES} hexadecimal digits; `responder explain` prints it"
        raise ValueError(msg)
    return bytes.fromhex(text)


class CannotOperate(Exception):
    """The command cannot be carried out; the message says why."""


async def explain_input(
    settings: Settings, predictor: AnyPredictor, body: bytes, tenant: bytes, cache_control: str = ""
) -> dict[str, Any]:
    """Carry out `responder explain`.

    Raises:
        ValueError: the input or the directives are not valid.
        CannotOperate: Redis does not answer.
    """
    directives = parse_cache_control(cache_control.encode())
    if directives.malformed:
        msg = f"cannot parse the directives {cache_control!r}; write them like max-age=5, no-cache"
        raise ValueError(msg)
    async with _operator(settings) as operator:
        try:
            explanation = await operator.explain(
                predictor,
                body,
                tenant,
                max_depth=settings.max_depth,
                max_values=settings.max_values,
                directives=directives,
                stale_s=settings.stale_s,
            )
            return asdict(explanation)
        except (Refused, NotCanonical) as error:
            raise ValueError(str(error)) from None


async def invalidate(settings: Settings, model: str | None, key: str | None) -> dict[str, Any]:
    """Carry out `responder invalidate`: one model, one answer, or everything if neither is given.

    Raises:
        ValueError: the key is not valid.
        CannotOperate: Redis does not answer, or the model was never asked.
    """
    digest = None if key is None else digest_of(key)
    async with _operator(settings) as operator:
        if model is not None:
            if not await operator.invalidate_model(model):
                msg = f"nothing is cached for {model!r}: it was never asked in namespace {settings.namespace!r}"
                raise CannotOperate(msg)
            return {"done": f"invalidated all answers of {model}", "models": [model]}
        if digest is not None:
            found = await operator.invalidate_key(digest)
            return {
                "done": f"invalidated the answer of {key}" if found else f"nothing was cached for {key}",
                "found": found,
            }
        models = await operator.invalidate_all()
        done = f"invalidated all answers of {', '.join(models)}" if models else "no model was ever asked"
        return {"done": done, "models": models}


@asynccontextmanager
async def _operator(settings: Settings) -> AsyncIterator[Operator]:
    url = settings.redis_url.get_secret_value()
    if url == "memory://":
        msg = "REDIS_URL is memory://: each responder keeps its cache in its own process, where no command can reach it"
        raise CannotOperate(msg)
    try:
        async with RedisCache(url, timeout_s=max(2.0, settings.redis_timeout_s)) as cache:
            yield Operator(cache, settings.namespace)
    except (CacheUnavailable, InvalidCacheUrl, UnsuitableCache) as error:
        msg = f"Redis: {error}"
        raise CannotOperate(msg) from None
