"""Runs a blocking model in threads."""

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from prediction_responder.execution.hooks import outcome_of, run_hook
from prediction_responder.execution.port import Crashed, ModelTimeout
from prediction_responder.model.predictor import AnyPredictor

THREAD_PREFIX = "model-"
CLOSE_TIMEOUT_S = 5.0


class ThreadExecution:
    """Runs a blocking model in threads of its own.

    A thread cannot be stopped: a call over its limit is abandoned, and runs on until the thread ends it.
    """

    def __init__(self, predictor: AnyPredictor) -> None:
        self._predictor = predictor
        self._threads = ThreadPoolExecutor(predictor.permits, thread_name_prefix=f"{THREAD_PREFIX}{predictor.name}")
        self._model: Any = None
        self._is_loaded = False

    async def load(self) -> None:
        if self._model is None:
            self._model = await run_hook(self._predictor.instantiate, self._threads)
        hook = getattr(self._model, "load", None)
        if callable(hook):
            await run_hook(hook, self._threads)
        self._is_loaded = True

    async def call(self, inputs: Sequence[Any], on_start: Callable[[], None], on_end: Callable[[], None]) -> list[Any]:
        loop = asyncio.get_running_loop()
        predict = getattr(self._model, "predict", self._model)
        [value] = inputs
        outcome: Future[tuple[Any, BaseException | None]]
        try:
            on_start()
            outcome = self._threads.submit(outcome_of, predict, value)
        except BaseException:  # no thread will end it
            on_end()
            raise
        outcome.add_done_callback(lambda _: _from_thread(loop, on_end))
        waiting = asyncio.wrap_future(outcome)
        done, _ = await asyncio.wait({waiting}, timeout=self._predictor.timeout_s)
        if not done:
            raise ModelTimeout
        result, error = waiting.result()
        if error is None:
            return [result]
        if isinstance(error, Exception):
            raise error
        raise Crashed(error) from error

    async def close(self) -> None:
        """Run the hook in a thread of its own: the model's other threads may be busy without limit."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        hook = getattr(self._model, "close", None)
        if self._is_loaded and callable(hook):
            closer = ThreadPoolExecutor(1, thread_name_prefix=f"{THREAD_PREFIX}{self._predictor.name}-close")
            closing = asyncio.ensure_future(run_hook(hook, closer))
            closing.add_done_callback(lambda one: one.cancelled() or one.exception())  # it may outlast the wait
            try:
                await asyncio.wait({closing}, timeout=CLOSE_TIMEOUT_S)
            finally:
                closer.shutdown(wait=False)
            if closing.done():
                closing.result()


def _from_thread(loop: asyncio.AbstractEventLoop, call: Callable[[], None]) -> None:
    with contextlib.suppress(RuntimeError):  # the loop is closed: the thread outlived the responder
        loop.call_soon_threadsafe(call)
