"""The client: one reply queue of its own, and a future for each call."""

import asyncio
import contextlib
import itertools
import math
import secrets
import uuid
from collections.abc import Iterable, Sequence
from functools import partial
from types import TracebackType
from typing import Any, Literal, Self, TypeVar, overload

from pydantic import BaseModel

from lane import Amqp, Binding, Fate, Message, QueueSpec, Transport
from producer.errors import DeadlineExceeded, NoBroker, OutcomeUnknown, PredictionError
from producer.many import Warming, answers_to_all, error_of_fate, warmed
from producer.prediction import REPLY_HEADERS, Prediction, prediction_of
from producer.request import RequestWriter, encode_input
from producer.retry import Retries, RetryBudget
from producer.tracing import find_trace
from producer.typed import adapter_of, typed

_PREFETCH = 1000
_NOT_TAKEN = frozenset({"UNKNOWN_MODEL", "NO_BROKER", "RESOURCE_EXHAUSTED"})
T = TypeVar("T")


class PredictionClient:
    """Asks for predictions: `async with PredictionClient(url) as client: await client.predict("price", features)`.

    Cancelling a call forgets it; its answer is dropped when it comes. A connection that is lost comes back by itself.

    Args:
        url: the broker's AMQP URL.
        timeout_s: how long a call may take, unless it says otherwise; retries and waiting included.
        connect_timeout_s: how long entering may take.
        namespace: the responders' RESPONDER_NAMESPACE.
        max_in_flight: calls at once; more wait for their turn, within their own time.
        retries: when a failed attempt is followed by another one. An attempt has the correlation id of the call, so a
            late reply to an earlier one is as good.
        retry_budget: what all retries together may cost.
        user_id: the broker's user of `url`, to travel with each request; the broker refuses a false one.
        exchange: where requests are published, e.g. `predictions`, for a user who may not write to the default one.
        reply_exchange: the responders' RESPONDER_REPLY_EXCHANGE; the reply queue is bound to it with its own name.
        reply_prefix: what the name of the reply queue begins with.
        transport: what carries requests and replies, instead of RabbitMQ at `url`; see `producer.testing`.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout_s: float = 30.0,
        connect_timeout_s: float = 10.0,
        namespace: str = "",
        max_in_flight: int = 1000,
        retries: Retries | None = None,
        retry_budget: RetryBudget | None = None,
        user_id: str | None = None,
        exchange: str = "",
        reply_exchange: str = "",
        reply_prefix: str = "replies.",
        transport: Transport | None = None,
    ) -> None:
        if max_in_flight < 1:
            msg = f"max_in_flight must be 1 or more, not {max_in_flight}"
            raise ValueError(msg)
        self._timeout_s = _checked(timeout_s)
        self._connect_timeout_s = connect_timeout_s
        self._max_in_flight = max_in_flight
        self._room = asyncio.Semaphore(max_in_flight)
        self._retries = retries or Retries()
        # All that one lost connection fails may be tried again.
        self._budget = retry_budget or RetryBudget(burst=max(100.0, max_in_flight))
        self._trace = find_trace()
        self._reply_queue = f"{reply_prefix}{uuid.uuid4().hex}"
        self._writer = RequestWriter(
            prefix="" if exchange else f"{namespace}predictions.", reply_to=self._reply_queue, user_id=user_id
        )
        binding = Binding(reply_exchange, self._reply_queue) if reply_exchange else None
        # Nobody who has not seen one can guess another, so a forged reply finds no call.
        session = secrets.token_hex(6).encode()
        self._ids = (b"%b-%d" % (session, number) for number in itertools.count(1))
        self._waiting: dict[bytes, asyncio.Future[Prediction]] = {}
        self._reader: asyncio.Task[None] | None = None
        carrier = transport or Amqp(url)
        self._inbox = carrier.inbox(
            [QueueSpec(self._reply_queue, durable=False, exclusive=True, binding=binding)],
            name="prediction client replies",
            prefetch=_PREFETCH,
            headers=REPLY_HEADERS,
            no_ack=True,
            on_lost=lambda: self._fail_all("the connection was lost while the reply was awaited", retryable=True),
        )
        self._is_entered = False
        self._closed = asyncio.Event()
        self._outbox = carrier.outbox(name="prediction client requests", exchange=exchange, on_fate=self._on_fate)

    def __repr__(self) -> str:
        return f"<PredictionClient {self._reply_queue} waiting={len(self._waiting)}>"

    async def __aenter__(self) -> Self:
        if self._is_entered:
            msg = "a client is entered once; make another one"
            raise RuntimeError(msg)
        self._is_entered = True
        await self._inbox.__aenter__()
        await self._outbox.__aenter__()
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                await self._outbox.up()
                await self._inbox.consuming()
        except BaseException as error:
            why = self._outbox.last_error or self._inbox.last_error or "no answer"
            await self._leave()
            if isinstance(error, TimeoutError):
                msg = f"the broker cannot be reached: {why}"
                raise NoBroker(msg, retryable=True) from error
            raise
        self._reader = asyncio.create_task(self._read(), name="prediction client reader")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed.set()
        self._fail_all("the client was closed before the reply came", retryable=False)
        await self._leave()

    async def _leave(self) -> None:
        """Both connections end, whatever happens to the one who waits for it."""
        self._closed.set()
        try:
            await self._outbox.__aexit__(None, None, None)
        finally:
            await self._inbox.__aexit__(None, None, None)
            if self._reader is not None:
                await self._reader

    @overload
    async def predict(self, model: str, features: BaseModel | Any, *, output: type[T], **options: Any) -> T: ...

    @overload
    async def predict(self, model: str, features: BaseModel | Any, **options: Any) -> Any: ...

    async def predict(self, model: str, features: BaseModel | Any, *, output: Any = None, **options: Any) -> Any:
        """The model's output for one input.

        Args:
            output: what it is to be, e.g. a pydantic model, any other type that pydantic knows, or a `TypeAdapter`; a
                JSON value by default.
            options: see `ask`.
        """
        adapter = adapter_of(output)
        return typed((await self.ask(model, features, **options)).value, adapter, output)

    async def ask(
        self,
        model: str,
        features: BaseModel | Any,
        *,
        timeout: float | None = None,  # noqa: ASYNC109 - it travels with the request as its deadline
        cache_control: str | None = None,
        tenant: str | None = None,
    ) -> Prediction:
        """Ask a model, and learn where the answer came from.

        Args:
            model: its name.
            features: a pydantic model or a JSON value.
            timeout: seconds; the responder drops the work when nobody can wait for it any more.
            cache_control: RFC 9111 request directives, e.g. `no-cache` or `max-age=5`.
            tenant: the namespace of the cached answer.

        Raises:
            UnknownModel: no queue takes requests for it.
            DeadlineExceeded: no answer in time.
            OutcomeUnknown: the connection was lost; the model may or may not have been called.
            PredictionError: see `producer.errors`.
            ValueError: a timeout that never ends.
        """
        timeout_s = self._timeout_s if timeout is None else _checked(timeout)
        loop = asyncio.get_running_loop()
        deadline, attempt, identifier = loop.time() + timeout_s, 1, next(self._ids)
        unknown: OutcomeUnknown | None = None
        body = encode_input(features)
        if timeout_s <= 0:
            msg = f"no answer from {model!r} in time: there was none, timeout={timeout_s:g}"
            raise DeadlineExceeded(msg)
        self._budget.note_call()
        while True:
            if self._room.locked():
                await self._wait_for_room(deadline)
            else:
                await self._room.acquire()
            try:
                return await self._attempt(identifier, model, body, deadline, cache_control, tenant)
            except PredictionError as error:
                unknown = error if isinstance(error, OutcomeUnknown) else unknown
                delay_s = self._retries.delay_s(error, attempt, deadline - loop.time())
                if delay_s is None or not self._budget.take():
                    if unknown is not None and error.code in _NOT_TAKEN:
                        # This attempt did not arrive. An earlier one may have.
                        raise OutcomeUnknown(f"{unknown.message}; and then: {error.message}") from error
                    raise
            finally:
                self._room.release()
            if not await self._pause(delay_s) and unknown is not None:
                raise unknown
            self._check_open()
            attempt += 1

    @overload
    async def predict_many(
        self, model: str, inputs: Iterable[Any], *, output: type[T], errors: Literal["raise"] = "raise", **options: Any
    ) -> list[T]: ...

    @overload
    async def predict_many(
        self, model: str, inputs: Iterable[Any], *, output: type[T], errors: Literal["return"], **options: Any
    ) -> list[T | PredictionError]: ...

    @overload
    async def predict_many(self, model: str, inputs: Iterable[Any], **options: Any) -> list[Any]: ...

    async def predict_many(
        self,
        model: str,
        inputs: Iterable[Any],
        *,
        output: Any = None,
        errors: Literal["raise", "return"] = "raise",
        **options: Any,
    ) -> list[Any]:
        """The model's outputs for many inputs, in their order; as many at once as the client allows.

        Args:
            inputs: may be endless or large: it is read as answers come.
            output: see `predict`.
            errors: `raise` ends with the first error and forgets the other calls; `return` puts errors into the list.
            options: see `ask`; a timeout is that of each call.
        """
        call = partial(self.predict, model, output=output, **options)
        return await answers_to_all(call, inputs, at_once=self._max_in_flight, errors=errors)

    async def warm(
        self,
        model: str,
        inputs: Iterable[Any],
        *,
        timeout: float | None = None,  # noqa: ASYNC109 - of each request
        tenant: str | None = None,
    ) -> int:
        """Have answers computed and cached for which nobody waits; how many were asked for.

        It returns when the broker has all of them, which is before they are computed.

        Args:
            timeout: seconds after which the responder drops what it has not begun.

        Raises:
            UnknownModel, ResourceExhausted, OutcomeUnknown: of the first that was not taken.
            NoBroker: the client is closed.
        """
        left_s = self._timeout_s if timeout is None else _checked(timeout)
        loop = asyncio.get_running_loop()

        def message(one: Any) -> Message:
            self._check_open()
            body, give_up_at = encode_input(one), loop.time() + left_s
            return self._writer.unanswered(model, body, left_s=left_s, give_up_at=give_up_at, tenant=tenant)

        return await warmed(self._outbox, map(message, inputs), model)

    async def _attempt(
        self,
        identifier: bytes,
        model: str,
        body: bytes,
        deadline: float,
        cache_control: str | None,
        tenant: str | None,
    ) -> Prediction:
        """One request, and the reply to it or to an earlier one of the same call."""
        loop = asyncio.get_running_loop()
        if not self._inbox.is_consuming or self._closed.is_set():
            await self._can_be_answered(deadline, model)
        message = self._writer.message(
            identifier,
            model,
            body,
            left_s=deadline - loop.time(),
            give_up_at=deadline,
            cache_control=cache_control,
            tenant=tenant,
            trace=self._trace(),
        )
        future: asyncio.Future[Prediction] = loop.create_future()
        message.token = future, model
        self._waiting[identifier] = future
        timer = loop.call_at(deadline, self._too_late, identifier, model)
        try:
            self._outbox.send((message,))
            return await future
        finally:
            timer.cancel()
            del self._waiting[identifier]
            message.give_up_at = -math.inf  # what has not been sent by now is for nobody

    def _too_late(self, identifier: bytes, model: str) -> None:
        why = f": {self._outbox.last_error}" if self._outbox.last_error else ""
        self._resolve(identifier, DeadlineExceeded(f"no answer from {model!r} in time{why}"))

    async def _pause(self, delay_s: float) -> bool:
        """Between two attempts; whether there may be another one, because the client has not been closed meanwhile."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(delay_s):
                await self._closed.wait()
        return not self._closed.is_set()

    def _check_open(self) -> None:
        if not self._is_entered or self._closed.is_set():
            msg = "the client is closed, or was never entered"
            raise NoBroker(msg)

    async def _wait_for_room(self, deadline: float) -> None:
        try:
            async with asyncio.timeout_at(deadline):
                await self._room.acquire()
        except TimeoutError:
            msg = f"{self._max_in_flight} calls were in flight all the time (max_in_flight)"
            raise DeadlineExceeded(msg) from None

    async def _can_be_answered(self, deadline: float, model: str) -> None:
        """Wait until the reply queue is there, or raise because it will not be in time, or never."""
        self._check_open()
        waits = {asyncio.ensure_future(self._inbox.consuming()), asyncio.ensure_future(self._closed.wait())}
        left_s = deadline - asyncio.get_running_loop().time()
        try:
            done, _ = await asyncio.wait(waits, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        self._check_open()
        if not done:
            msg = f"no answer from {model!r} in time: not connected: {self._inbox.last_error or 'connecting'}"
            raise DeadlineExceeded(msg)

    def _fail_all(self, why: str, *, retryable: bool) -> None:
        """The reply queue is gone, and with it every reply that is still to come."""
        for identifier in list(self._waiting):  # an error each: one that many raise gathers all their tracebacks
            self._resolve(identifier, OutcomeUnknown(why, retryable=retryable))

    def _on_fate(self, messages: Sequence[Message], fate: Fate) -> None:
        for message in messages:
            if isinstance(message.token, Warming):
                message.token.note(fate)
            elif fate is not Fate.CONFIRMED:
                future, model = message.token  # of this attempt: an earlier one may still be under way
                if not future.done():
                    future.set_exception(error_of_fate(fate, model))

    async def _read(self) -> None:
        async for batch in self._inbox:
            for delivery in batch:
                identifier = delivery.properties.correlation_id
                if identifier in self._waiting:  # a late, second or forged reply is not even read
                    self._resolve(identifier, prediction_of(delivery))

    def _resolve(self, identifier: bytes, outcome: Prediction | PredictionError) -> None:
        """Give a call its ending. A late or a second reply finds nobody waiting, and is dropped."""
        future = self._waiting.get(identifier)
        if future is None or future.done():
            return
        if isinstance(outcome, PredictionError):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)


def _checked(timeout_s: float) -> float:
    if not math.isfinite(timeout_s):
        msg = f"a timeout is a number of seconds, not {timeout_s}"
        raise ValueError(msg)
    return timeout_s
