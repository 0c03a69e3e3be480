"""The client: one reply queue of its own, and a future for each call."""

import asyncio
import itertools
import json
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from pydantic import BaseModel

from lane import Delivery, Fate, Inbox, Message, Outbox, Properties, QueueSpec
from producer.errors import (
    DeadlineExceeded,
    NoBroker,
    OutcomeUnknown,
    PredictionError,
    ResourceExhausted,
    UnknownModel,
    error_of,
)
from schemas import CacheStatus, Failure, MalformedReply, decode_reply, parse_cache_status

_REPLY_HEADERS = (b"cache-status", b"age", b"model", b"model-version", b"duration-ms", b"retry-after-ms")
_PREFETCH = 1000


@dataclass(frozen=True, slots=True)
class Prediction:
    """A result and where it came from.

    Attributes:
        value: the model's output, as a JSON value.
        cache_status: hit, miss, collapsed, and the freshness left (RFC 9211).
        age_s: how old a cached answer is; None for a new one.
        model, model_version: who answered.
        duration_ms: from the responder's receipt to its reply.
    """

    value: Any
    cache_status: CacheStatus
    age_s: int | None
    model: str
    model_version: str
    duration_ms: int


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
        # A name of our own choosing outlives a lost connection: replies that are on their way still find it.
        self._reply_queue = f"replies.{uuid.uuid4().hex}"
        self._ids = (b"%d" % number for number in itertools.count(1))
        self._waiting: dict[bytes, asyncio.Future[Prediction]] = {}
        self._reader: asyncio.Task[None] | None = None
        self._inbox = Inbox(
            url,
            [QueueSpec(self._reply_queue, durable=False, exclusive=True)],
            name="prediction client replies",
            prefetch=_PREFETCH,
            headers=_REPLY_HEADERS,
            no_ack=True,
        )
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
        await self._outbox.__aexit__(kind, error, trace)
        await self._inbox.__aexit__(kind, error, trace)
        if self._reader is not None:
            await self._reader
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(OutcomeUnknown("the client was closed before the reply came"))

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
        self._waiting[identifier] = future
        try:
            async with asyncio.timeout(timeout_s):
                await self._inbox.consuming()
                self._outbox.send([self._request(identifier, model, features, timeout_s, cache_control, tenant)])
                return await future
        except TimeoutError:
            msg = f"no answer from {model!r} within {timeout_s:g} s"
            raise DeadlineExceeded(msg) from None
        finally:
            del self._waiting[identifier]

    def _request(
        self,
        identifier: bytes,
        model: str,
        features: BaseModel | Any,
        timeout_s: float,
        cache_control: str | None,
        tenant: str | None,
    ) -> Message:
        body = features.model_dump_json() if isinstance(features, BaseModel) else json.dumps(features, allow_nan=False)
        left_ms = max(1, round(timeout_s * 1000))
        return Message(
            routing_key=f"{self._queue_prefix}{model}".encode(),
            body=body.encode(),
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


def prediction_of(delivery: Delivery) -> Prediction | PredictionError:
    """What a reply says."""
    headers = {name: value.decode("utf-8", "replace") for name, value in delivery.properties.headers.items() if value}
    try:
        reply = decode_reply(delivery.body or b"")
    except MalformedReply as error:
        return PredictionError(str(error), code="MALFORMED_REPLY")
    if isinstance(reply, Failure):
        retry_after_ms = _number(headers.get(b"retry-after-ms"))
        return error_of(reply, None if retry_after_ms is None else retry_after_ms / 1000)
    return Prediction(
        value=reply.value,
        cache_status=parse_cache_status(headers.get(b"cache-status", "")),
        age_s=_number(headers.get(b"age")),
        model=headers.get(b"model", ""),
        model_version=headers.get(b"model-version", ""),
        duration_ms=_number(headers.get(b"duration-ms")) or 0,
    )


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdigit() else None
