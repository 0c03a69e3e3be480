"""The client: one reply queue of its own, and a future for each call."""

import asyncio
import itertools
import json
import time
import uuid
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

from pydantic import BaseModel

from lane import Fate, Inbox, Message, Outbox, Properties, QueueSpec
from producer.errors import (
    DeadlineExceeded,
    NoBroker,
    OutcomeUnknown,
    PayloadTooLarge,
    PredictionError,
    ResourceExhausted,
    UnknownModel,
)
from producer.prediction import REPLY_HEADERS, Prediction, prediction_of

_PREFETCH = 1000
MAX_BODY_BYTES = 16 * 2**20  # RabbitMQ 4 takes no more
MAX_NAME_BYTES = 255


class PredictionClient:
    """Asks for predictions: `async with PredictionClient(url) as client: await client.predict("price", features)`.

    Any number of calls may be in flight at once. Cancelling a call forgets it; its answer is dropped when it comes.

    Args:
        url: the broker's AMQP URL.
        timeout_s: how long a call may take, unless it says otherwise.
        connect_timeout_s: how long entering may take.
        namespace: the responders' RESPONDER_NAMESPACE.
    """

    def __init__(
        self, url: str, *, timeout_s: float = 30.0, connect_timeout_s: float = 10.0, namespace: str = ""
    ) -> None:
        self._timeout_s = timeout_s
        self._connect_timeout_s = connect_timeout_s
        self._queue_prefix = f"{namespace}predictions."
        self._reply_queue = f"replies.{uuid.uuid4().hex}"
        self._ids = (b"%d" % number for number in itertools.count(1))
        self._waiting: dict[bytes, asyncio.Future[Prediction]] = {}
        self._reader: asyncio.Task[None] | None = None
        self._inbox = Inbox(
            url,
            [QueueSpec(self._reply_queue, durable=False, exclusive=True)],
            name="prediction client replies",
            prefetch=_PREFETCH,
            headers=REPLY_HEADERS,
            no_ack=True,
            on_lost=lambda: self._fail_all("the connection was lost while the reply was awaited"),
        )
        self._closed = asyncio.Event()
        self._outbox = Outbox(url, name="prediction client requests", on_fate=self._on_fate)

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
        identifier = next(self._ids)
        future: asyncio.Future[Prediction] = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(timeout_s):
                await self._can_be_answered()
                message = self._request(identifier, model, features, timeout_s, cache_control, tenant)
                self._waiting[identifier] = future
                self._outbox.send([message])
                return await future
        except TimeoutError:
            msg = f"no answer from {model!r} within {timeout_s:g} s"
            raise DeadlineExceeded(msg) from None
        finally:
            self._waiting.pop(identifier, None)

    async def _can_be_answered(self) -> None:
        """Wait until the reply queue is there, or raise because it never will be."""
        if not self._inbox.is_consuming and not self._closed.is_set():
            waits = {asyncio.ensure_future(self._inbox.consuming()), asyncio.ensure_future(self._closed.wait())}
            try:
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for wait in waits:
                    wait.cancel()
        if self._closed.is_set():
            msg = "the client is closed"
            raise NoBroker(msg)

    def _fail_all(self, why: str) -> None:
        """The reply queue is gone, and with it every reply that is still to come."""
        for identifier in list(self._waiting):
            self._resolve(identifier, OutcomeUnknown(why))

    def _request(
        self,
        identifier: bytes,
        model: str,
        features: BaseModel | Any,
        timeout_s: float,
        cache_control: str | None,
        tenant: str | None,
    ) -> Message:
        text = features.model_dump_json() if isinstance(features, BaseModel) else json.dumps(features, allow_nan=False)
        body, routing_key = text.encode(), f"{self._queue_prefix}{model}".encode()
        if len(body) > MAX_BODY_BYTES:
            msg = f"the input has {len(body)} bytes, a message has {MAX_BODY_BYTES} at most"
            raise PayloadTooLarge(msg, code="PAYLOAD_TOO_LARGE")
        if len(routing_key) > MAX_NAME_BYTES:
            msg = f"no model has a name of {len(model)} characters"
            raise UnknownModel(msg)
        left_ms = max(1, round(timeout_s * 1000))
        return Message(
            routing_key=routing_key,
            body=body,
            give_up_at=asyncio.get_running_loop().time() + timeout_s,
            properties=Properties(
                content_type=b"application/json",
                correlation_id=identifier,
                reply_to=self._reply_queue.encode(),
                expiration=b"%d" % left_ms,
                type=b"call",
                headers={
                    b"deadline": b"%d" % (time.time_ns() // 1_000_000 + left_ms),
                    b"cache-control": None if cache_control is None else cache_control.encode(),
                    b"tenant": None if tenant is None else tenant.encode(),
                },
            ),
            token=(identifier, model),
        )

    def _on_fate(self, fates: Sequence[tuple[Message, Fate]]) -> None:
        for message, fate in fates:
            identifier, model = message.token
            match fate:
                case Fate.CONFIRMED:
                    continue
                case Fate.RETURNED:
                    error: PredictionError = UnknownModel(f"no queue takes requests for the model {model!r}")
                case Fate.REFUSED:
                    error = ResourceExhausted("the broker refused the request; its queue may be full", retryable=True)
                case Fate.ABANDONED:
                    error = OutcomeUnknown("the connection was lost; the request may or may not have arrived")
            self._resolve(identifier, error)

    async def _read(self) -> None:
        async for batch in self._inbox:
            for delivery in batch:
                if delivery.properties.correlation_id is not None:
                    self._resolve(delivery.properties.correlation_id, prediction_of(delivery))

    def _resolve(self, identifier: bytes, outcome: Prediction | PredictionError) -> None:
        """Give a call its ending. A late or a second reply finds nobody waiting, and is dropped."""
        future = self._waiting.get(identifier)
        if future is None or future.done():
            return
        if isinstance(outcome, PredictionError):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)
