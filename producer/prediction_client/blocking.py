"""The client for programs without an event loop: scripts, Django, threads."""

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine, Iterable
from concurrent.futures import CancelledError
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from functools import partial
from types import TracebackType
from typing import Any, Literal, Self, TypeVar, Unpack, overload

from pydantic import BaseModel

from prediction_client.client import PredictionClient
from prediction_client.errors import NoBroker, PredictionError
from prediction_client.options import CallOptions, ClientOptions, environment_options
from prediction_client.prediction import Prediction
from prediction_client.typed import Output

T = TypeVar("T")
CLOSED = (
    "the client is closed, or was not entered in this process: create one in each process, and use it inside `with`"
)
CLOSE_TIMEOUT_S = 1.0


class BlockingPredictionClient:
    """`PredictionClient` with the same methods, which block: `with BlockingPredictionClient(url) as client: ...`.

    Any number of threads may share one client. Its event loop runs in a thread of its own. A thread does not survive
    `fork`, so enter a client in each process.

    Args:
        url, options: as `PredictionClient`.
    """

    def __init__(self, url: str, **options: Unpack[ClientOptions]) -> None:
        self._make: Callable[[], AbstractAsyncContextManager[PredictionClient]] = partial(
            PredictionClient, url, **options
        )
        self._pid = 0
        self._opening = threading.Lock()
        self._is_open = self._is_connected = False

    @classmethod
    def of(cls, make: Callable[[], AbstractAsyncContextManager[PredictionClient]]) -> Self:
        """Wrap another client, which is created and entered in the thread of the event loop."""
        one = cls("")
        one._make = make
        return one

    @classmethod
    def connect(cls, url: str, **options: Unpack[ClientOptions]) -> Self:
        """Create a client and open it, for programs that cannot use `with`. Close it with `close()`."""
        client = cls(url, **options).__enter__()
        client._is_connected = True
        return client

    @classmethod
    def from_environment(cls, **options: Unpack[ClientOptions]) -> Self:
        """See `PredictionClient.from_environment`: `with` opens it."""
        url, chosen = environment_options(options)
        return cls(url, **chosen)

    def __repr__(self) -> str:
        return f"<Blocking {getattr(self, '_client', 'not entered')!r}>"

    def __enter__(self) -> Self:
        if self._is_connected:
            self._is_connected = False
            return self
        if self._pid:
            msg = "a client can be entered only once; create a new one"
            raise RuntimeError(msg)
        # Not in __init__: a client that is created before a fork and entered after it has an event loop of its own.
        self._pid = os.getpid()
        self._stack = AsyncExitStack()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="prediction client", daemon=True)
        self._thread.start()
        self._is_open = True
        try:
            self._client = self._run(self._enter)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the client. Calls in other threads end with OutcomeUnknown or NoBroker.

        A second call, or one in a forked child, does nothing.
        """
        if self._pid != os.getpid():
            return
        with self._opening:
            was_open, self._is_open = self._is_open, False
        if was_open:
            asyncio.run_coroutine_threadsafe(self._leave(), self._loop).result()
            self._end()

    @overload
    def predict(
        self, model: str, features: BaseModel | Any, *, output: Output[T], **options: Unpack[CallOptions]
    ) -> T: ...

    @overload
    def predict(
        self, model: str, features: BaseModel | Any, *, output: None = None, **options: Unpack[CallOptions]
    ) -> Any: ...

    def predict(
        self, model: str, features: BaseModel | Any, *, output: Any = None, **options: Unpack[CallOptions]
    ) -> Any:
        """See `PredictionClient.predict`."""
        return self._run(lambda: self._client.predict(model, features, output=output, **options))

    @overload
    def ask(
        self, model: str, features: BaseModel | Any, *, output: Output[T], **options: Unpack[CallOptions]
    ) -> Prediction[T]: ...

    @overload
    def ask(
        self, model: str, features: BaseModel | Any, *, output: None = None, **options: Unpack[CallOptions]
    ) -> Prediction[Any]: ...

    def ask(
        self, model: str, features: BaseModel | Any, *, output: Any = None, **options: Unpack[CallOptions]
    ) -> Prediction[Any]:
        """See `PredictionClient.ask`."""
        return self._run(lambda: self._client.ask(model, features, output=output, **options))

    @overload
    def predict_many(
        self,
        model: str,
        inputs: Iterable[Any],
        *,
        output: Output[T],
        return_errors: Literal[True],
        **options: Unpack[CallOptions],
    ) -> list[T | PredictionError]: ...

    @overload
    def predict_many(
        self,
        model: str,
        inputs: Iterable[Any],
        *,
        output: Output[T],
        return_errors: Literal[False] = False,
        **options: Unpack[CallOptions],
    ) -> list[T]: ...

    @overload
    def predict_many(
        self,
        model: str,
        inputs: Iterable[Any],
        *,
        output: None = None,
        return_errors: bool = False,
        **options: Unpack[CallOptions],
    ) -> list[Any]: ...

    @overload
    def predict_many(
        self,
        model: str,
        inputs: Iterable[Any],
        *,
        output: Output[T],
        return_errors: bool,
        **options: Unpack[CallOptions],
    ) -> list[T | PredictionError]: ...

    def predict_many(
        self,
        model: str,
        inputs: Iterable[Any],
        *,
        output: Any = None,
        return_errors: bool = False,
        **options: Unpack[CallOptions],
    ) -> list[Any]:
        """See `PredictionClient.predict_many`; all inputs are read before the first request is sent."""
        every = list(inputs)  # in the caller's thread: the iterable may be slow, or a database query
        many: Callable[..., Coroutine[Any, Any, list[Any]]] = self._client.predict_many
        return self._run(lambda: many(model, every, output=output, return_errors=return_errors, **options))

    def warm(
        self, model: str, inputs: Iterable[Any], *, timeout_s: float | None = None, tenant: str | None = None
    ) -> int:
        """See `PredictionClient.warm`; all inputs are read before the first request is sent."""
        every = list(inputs)
        return self._run(lambda: self._client.warm(model, every, timeout_s=timeout_s, tenant=tenant))

    async def _enter(self) -> PredictionClient:
        return await self._stack.enter_async_context(self._make())

    async def _leave(self) -> None:
        """Close the client, wait for the remaining tasks, then cancel them: no caller may wait when the loop stops."""
        await self._stack.aclose()
        rest = asyncio.all_tasks() - {asyncio.current_task()}
        if rest:
            await asyncio.wait(rest, timeout=CLOSE_TIMEOUT_S)
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)

    def _run(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        future = None
        if self._pid == os.getpid():  # first: after a fork, a thread that no longer exists may hold the lock
            with self._opening:  # so that a call starts before the client is closed, or not at all
                if self._is_open and threading.current_thread() is not self._thread:
                    future = asyncio.run_coroutine_threadsafe(work(), self._loop)
        if future is None:
            raise NoBroker(CLOSED)
        try:
            return future.result()
        except CancelledError:
            raise NoBroker(CLOSED) from None
        except BaseException:  # Ctrl-C included: the caller waits no longer
            future.cancel()
            raise

    def _end(self) -> None:
        self._is_open = False
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
