"""Loads a model, with retries: the file or the service that it needs may become available later."""

import asyncio
from collections.abc import Callable

from prediction_responder.clock import Clock
from prediction_responder.execution.served import ModelNotLoaded, ServedModel
from prediction_responder.observe.logs import logger

log = logger(__name__)

FIRST_DELAY_S, MAX_DELAY_S = 0.1, 1.0


async def load(model: ServedModel, limit_s: float, clock: Clock, on_failure: Callable[[str], None]) -> None:
    """Load a model.

    Args:
        limit_s: how long to try again; 0 for one attempt.
        on_failure: called after each failed attempt with one line that shows no secret.

    Raises:
        ModelNotLoaded: the last attempt failed.
    """
    give_up_at, delay_s = clock.now_s() + limit_s, FIRST_DELAY_S
    while True:
        try:
            await model.load()
        except ModelNotLoaded as error:
            # Its text may contain a URL with a password; only the log, which removes those, shows it.
            on_failure(f"model {model.name}: not loaded: {type(error.__cause__).__name__}, see the log")
            if clock.now_s() + delay_s > give_up_at:
                raise
            log.warning("model_not_loaded", problem=str(error), again_in_s=delay_s)
        else:
            log.info("model_loaded", model=model.name, version=model.version)
            return
        await asyncio.sleep(delay_s)
        delay_s = min(delay_s * 2, MAX_DELAY_S)
