"""Run a responder until SIGTERM or Ctrl-C, then drain it. The exit status says whether all work was finished."""

import asyncio
import gc
import logging
import os
import signal
import sys
import threading
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from typing import Any

from prediction_responder.app import Responder
from prediction_responder.cache.redis import UnsuitableCache
from prediction_responder.cache.redis_link import InvalidCacheUrl
from prediction_responder.execution.served import ModelNotLoaded
from prediction_responder.execution.threads import THREAD_PREFIX
from prediction_responder.model.predictor import AnyPredictor
from prediction_responder.observe.logs import logger
from prediction_responder.settings import Settings

log = logger(__name__)

OK, FAILED = 0, 1
YOUNG_OBJECTS = 5_000
LINGER_S = 0.5


def run(predictors: list[AnyPredictor], settings: Settings) -> int:
    """Serve until a signal to stop.

    Returns:
        0 when all work was finished, 1 when work that had started was requeued or serving failed.
    """
    if sys.platform == "win32":
        return asyncio.run(_serve_and_leave(predictors, settings))
    import uvloop

    return uvloop.run(_serve_and_leave(predictors, settings))


async def _serve_and_leave(predictors: list[AnyPredictor], settings: Settings) -> int:
    status = await _serve(predictors, settings)
    # A thread cannot be stopped, and the interpreter would wait for ever for one that a model blocks: the model's own
    # threads, and those of the event loop, where `asyncio.to_thread` runs.
    ending = asyncio.ensure_future(asyncio.get_running_loop().shutdown_default_executor())
    await asyncio.wait({ending}, timeout=LINGER_S)
    if not ending.done() or any(thread.name.startswith(THREAD_PREFIX) for thread in threading.enumerate()):
        _leave(status)
    return status


async def _serve(predictors: list[AnyPredictor], settings: Settings) -> int:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()

    def on_signal() -> None:
        """The second signal exits at once: the broker requeues unfinished requests when the connection closes."""
        if stop.is_set():
            log.warning("stopped_at_once")
            _leave(FAILED)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    responder = Responder(predictors, settings)
    try:
        async with AsyncExitStack() as stack:
            if not await _enter(stack, responder, stop):
                log.info("stopped_while_starting")
                return OK
            # The objects of the start stay, so the collector need not scan them again. Requests leave no cycles, but
            # models may, so the threshold of the young generation is raised a little and the others stay.
            gc.collect()
            gc.freeze()
            gc.set_threshold(YOUNG_OBJECTS, *gc.get_threshold()[1:])
            await _announce(responder, predictors, stop)
            await _first_of(stop.wait(), responder.ended())
            if not stop.is_set():
                log.error("stopped_answering")
            log.info("stopping", grace_s=settings.grace_s)
            finished = await responder.drain() and stop.is_set()
    except ModelNotLoaded as error:
        log.error("cannot_serve", problem=str(error), exc_info=error.__cause__)
        return FAILED
    except (OSError, InvalidCacheUrl, UnsuitableCache) as error:
        log.error("cannot_serve", problem=f"{type(error).__name__}: {error}")
        return FAILED
    return OK if finished else FAILED


async def _enter(stack: AsyncExitStack, responder: Responder, stop: asyncio.Event) -> bool:
    """Start the responder; False if a signal came before it had started. A model may take long to load."""
    entering = asyncio.ensure_future(stack.enter_async_context(responder))
    stopped = asyncio.ensure_future(stop.wait())
    await asyncio.wait({entering, stopped}, return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    if not entering.done():
        entering.cancel()
    try:
        await entering
    except asyncio.CancelledError:
        if not stop.is_set():
            raise
        return False
    return True


async def _first_of(*waits: Coroutine[Any, Any, object]) -> None:
    """Wait until one of these has ended, and cancel the others."""
    tasks = {asyncio.ensure_future(wait) for wait in waits}
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()


def _leave(status: int) -> None:
    logging.shutdown()
    os._exit(status)


async def _announce(responder: Responder, predictors: list[AnyPredictor], stop: asyncio.Event) -> None:
    """Log when it is ready, unless a signal comes first."""
    ready = asyncio.ensure_future(responder.ready())
    stopped = asyncio.ensure_future(stop.wait())
    await asyncio.wait({ready, stopped}, return_when=asyncio.FIRST_COMPLETED)
    if ready.done():
        log.info("ready", models=[one.name for one in predictors], health_port=responder.health_port)
    ready.cancel()
    stopped.cancel()
