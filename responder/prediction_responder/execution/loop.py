"""Runs an async model on the event loop."""

import asyncio
import inspect
from collections.abc import Callable, Sequence
from typing import Any

from prediction_responder.execution.hooks import run_hook
from prediction_responder.execution.port import Crashed, ModelTimeout
from prediction_responder.model.predictor import AnyPredictor


class LoopExecution:
    """Runs an async model on the event loop. A call over its limit is cancelled."""

    def __init__(self, predictor: AnyPredictor) -> None:
        self._predictor = predictor
        self._model: Any = None
        self._is_loaded = False

    async def load(self) -> None:
        if self._model is None:
            is_class = inspect.isclass(self._predictor.target)
            make = self._predictor.instantiate
            self._model = await run_hook(make) if is_class else make()
        hook = getattr(self._model, "load", None)
        if callable(hook):
            await run_hook(hook)
        self._is_loaded = True

    async def call(self, inputs: Sequence[Any], on_start: Callable[[], None], on_end: Callable[[], None]) -> list[Any]:
        predict = getattr(self._model, "predict", self._model)
        [value] = inputs
        limit = asyncio.timeout(self._predictor.timeout_s)
        try:
            on_start()
            async with limit:
                return [await predict(value)]
        except TimeoutError:
            if limit.expired():
                raise ModelTimeout from None
            raise
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            raise Crashed("the model cancelled itself") from error
        except Exception:
            raise
        except BaseException as error:
            raise Crashed(error) from error
        finally:
            on_end()

    async def close(self) -> None:
        hook = getattr(self._model, "close", None)
        if self._is_loaded and callable(hook):
            await run_hook(hook)
