"""The commands on the cache of a deployment: `responder explain` and `responder invalidate`."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import Any

from prediction_responder.cache import LeaseStore
from prediction_responder.cache.keys import control_channel
from prediction_responder.cache.port import CacheUnavailable
from prediction_responder.cache.redis import RedisCache, UnsuitableCache
from prediction_responder.cache.redis_link import InvalidCacheUrl
from prediction_responder.clock import SYSTEM_CLOCK
from prediction_responder.execution.served import ServedModel
from prediction_responder.messages import Refused
from prediction_responder.model.artefacts import UnreadableArtefact
from prediction_responder.model.predictor import AnyPredictor
from prediction_responder.operate.control import REPORT, ask_all
from prediction_responder.operate.explain import explain, read_directives, subject_of
from prediction_responder.operate.invalidate import Invalidation, digest_of
from prediction_responder.settings import Settings
from prediction_schemas.canonical import NotCanonical


class CannotOperate(Exception):
    """The command cannot be carried out; the message says why."""


async def explain_input(
    settings: Settings, predictor: AnyPredictor, body: bytes, tenant: bytes, cache_control: str = ""
) -> dict[str, Any]:
    """Carry out `responder explain`.

    Raises:
        ValueError: the input or the directives are not valid.
        CannotOperate: Redis does not answer, or an artefact of the model cannot be read.
    """
    directives = read_directives(cache_control)
    model = ServedModel(
        predictor,
        namespace=settings.namespace,
        max_depth=settings.max_depth,
        max_values=settings.max_values,
        max_reply_bytes=settings.max_reply_bytes,
        stale_s=settings.stale_s,
    )
    try:
        await model.identify()
        subject = subject_of(model, tenant, body)
    except UnreadableArtefact as error:
        raise CannotOperate(str(error)) from None
    except (Refused, NotCanonical) as error:
        raise ValueError(str(error)) from None
    async with _store(settings) as store:
        return asdict(await explain(store, subject, SYSTEM_CLOCK, directives))


async def invalidate(settings: Settings, model: str | None, key: str | None) -> dict[str, Any]:
    """Carry out `responder invalidate`: one model, one answer, or everything if neither is given.

    Raises:
        ValueError: the key is not valid.
        CannotOperate: Redis does not answer, or the model was never asked.
    """
    digest = None if key is None else digest_of(key)
    async with _store(settings) as store:
        invalidation = Invalidation(store, settings.namespace)
        if model is not None:
            if not await invalidation.model(model):
                msg = f"nothing is cached for {model!r}: it was never asked in namespace {settings.namespace!r}"
                raise CannotOperate(msg)
            return {"done": f"invalidated all answers of {model}", "models": [model]}
        if digest is not None:
            found = await invalidation.key(digest)
            return {
                "done": f"invalidated the answer of {key}" if found else f"nothing was cached for {key}",
                "found": found,
            }
        models = await invalidation.all()
        done = f"invalidated all answers of {', '.join(models)}" if models else "no model was ever asked"
        return {"done": done, "models": models}


async def list_replicas(settings: Settings, wait_s: float) -> dict[str, Any]:
    """Carry out `responder replicas`: what each running replica reports of itself.

    Raises:
        CannotOperate: Redis does not answer.
    """
    async with _store(settings) as store:
        reports = await ask_all(store, REPORT, wait_s=wait_s)
    return {"replicas": sorted(reports, key=lambda one: str(one.get("replica")))}


@asynccontextmanager
async def _store(settings: Settings) -> AsyncIterator[LeaseStore]:
    url = settings.redis_url.get_secret_value()
    if url == "memory://":
        msg = "REDIS_URL is memory://: each responder keeps its cache in its own process, where no command can reach it"
        raise CannotOperate(msg)
    try:
        control = control_channel(settings.namespace)
        async with RedisCache(url, timeout_s=max(2.0, settings.redis_timeout_s), control=control) as cache:
            yield cache
    except (CacheUnavailable, InvalidCacheUrl, UnsuitableCache) as error:
        msg = f"Redis: {error}"
        raise CannotOperate(msg) from None
