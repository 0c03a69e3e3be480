"""The client: one reply queue of its own, and a future for each call."""

import asyncio
import itertools
import secrets
import uuid
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

from pydantic import BaseModel

from lane import Binding, Fate, Inbox, Message, Outbox, QueueSpec
from producer.errors import (
    DeadlineExceeded,
    NoBroker,
    OutcomeUnknown,
    PredictionError,
    ResourceExhausted,
    UnknownModel,
)
from producer.prediction import REPLY_HEADERS, Prediction, prediction_of
from producer.request import RequestWriter

_PREFETCH = 1000


class PredictionClient:
    """Asks for predictions: `async with PredictionClient(url) as client: await client.predict("price", features)`.

    Any number of calls may be in flight at once. Cancelling a call forgets it; its answer is dropped when it comes.

    Args:
        url: the broker's AMQP URL.
        timeout_s: how long a call may take, unless it says otherwise.
        connect_timeout_s: how long entering may take.
        namespace: the responders' RESPONDER_NAMESPACE.
        user_id: the broker's user of `url`, to travel with each request; the broker refuses a false one.
        exchange: where requests are published, e.g. `predictions`, for a user who may not write to the default one.
        reply_exchange: the responders' RESPONDER_REPLY_EXCHANGE; the reply queue is bound to it with its own name.
        reply_prefix: what the name of the reply queue begins with.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout_s: float = 30.0,
        connect_timeout_s: float = 10.0,
        namespace: str = "",
        user_id: str | None = None,
        exchange: str = "",
        reply_exchange: str = "",
        reply_prefix: str = "replies.",
    ) -> None:
        self._timeout_s = timeout_s
        self._connect_timeout_s = connect_timeout_s
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
        self._inbox = Inbox(
            url,
            [QueueSpec(self._reply_queue, durable=False, exclusive=True, binding=binding)],
            name="prediction client replies",
            prefetch=_PREFETCH,
            headers=REPLY_HEADERS,
            no_ack=True,
            on_lost=lambda: self._fail_all("the connection was lost while the reply was awaited"),
        )
        self._closed = asyncio.Event()
        self._outbox = Outbox(url, name="prediction client requests", exchange=exchange, on_fate=self._on_fate)

    def __repr__(self) -> str:
        return f"<PredictionClient {self._reply_queue} waiting={len(self._waiting)}>"

    async def __aenter__(self) -> Self:
        await self._inbox.__aenter__()
        await self._outbox.__aenter__()
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                await self._outbox.up()
                await self._inbox.consuming()
        except BaseException as error:
            why = self._outbox.last_error or self._inbox.last_error or "no answer"
            await self._outbox.__aexit__(None, None, None)
            await self._inbox.__aexit__(None, None, None)
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
        self._fail_all("the client was closed before the reply came")
        await self._outbox.__aexit__(kind, error, trace)
        await self._inbox.__aexit__(kind, error, trace)
        if self._reader is not None:
            await self._reader

    async def predict(self, model: str, features: BaseModel | Any, *, timeout: float | None = None) -> Any:  # noqa: ASYNC109
        """The model's output for one input. See `ask`."""
        return (await self.ask(model, features, timeout=timeout)).value

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
            PredictionError: see `producer.errors`.
        """
        timeout_s = self._timeout_s if timeout is None else timeout
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        if not self._inbox.is_consuming or self._closed.is_set():
            await self._can_be_answered(deadline, model)
        identifier = next(self._ids)
        message = self._writer.message(
            identifier,
            model,
            features,
            left_s=deadline - loop.time(),
            give_up_at=deadline,
            cache_control=cache_control,
            tenant=tenant,
        )
        future: asyncio.Future[Prediction] = loop.create_future()
        self._waiting[identifier] = future
        late = DeadlineExceeded(f"no answer from {model!r} within {timeout_s:g} s")
        timer = loop.call_at(deadline, self._resolve, identifier, late)
        try:
            self._outbox.send((message,))
            return await future
        finally:
            timer.cancel()
            del self._waiting[identifier]

    async def _can_be_answered(self, deadline: float, model: str) -> None:
        """Wait until the reply queue is there, or raise because it will not be in time, or never."""
        waits = {asyncio.ensure_future(self._inbox.consuming()), asyncio.ensure_future(self._closed.wait())}
        left_s = deadline - asyncio.get_running_loop().time()
        try:
            done, _ = await asyncio.wait(waits, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        if self._closed.is_set():
            msg = "the client is closed"
            raise NoBroker(msg)
        if not done:
            msg = f"no answer from {model!r} in time: not connected: {self._inbox.last_error or 'connecting'}"
            raise DeadlineExceeded(msg)

    def _fail_all(self, why: str) -> None:
        """The reply queue is gone, and with it every reply that is still to come."""
        for identifier in list(self._waiting):
            self._resolve(identifier, OutcomeUnknown(why))

    def _on_fate(self, messages: Sequence[Message], fate: Fate) -> None:
        if fate is Fate.CONFIRMED:
            return
        for message in messages:
            identifier, model = message.token
            match fate:
                case Fate.RETURNED:
                    error: PredictionError = UnknownModel(f"no queue takes requests for the model {model!r}")
                case Fate.REFUSED:
                    error = ResourceExhausted("the broker refused the request; its queue may be full", retryable=True)
                case _:
                    error = OutcomeUnknown("the connection was lost; the request may or may not have arrived")
            self._resolve(identifier, error)

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
