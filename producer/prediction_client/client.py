"""The asyncio client: an exclusive reply queue, and a future for each call."""

import asyncio
import math
from collections.abc import Iterable
from functools import partial
from types import TracebackType
from typing import Any, Literal, Self, TypeVar, overload

from pydantic import BaseModel

from amqp_lane import Message, Transport
from prediction_client.calls import Room
from prediction_client.errors import DeadlineExceeded, OutcomeUnknown, PredictionError
from prediction_client.many import call_for_each, publish_and_confirm
from prediction_client.prediction import Prediction
from prediction_client.reply_channel import Broker
from prediction_client.request import encode_input
from prediction_client.retry import Retries, RetryBudget
from prediction_client.session import Session
from prediction_client.typed import adapter_of, convert
from prediction_schemas.wire import REPLY_PREFIX

_NOT_TAKEN = frozenset({"UNKNOWN_MODEL", "NO_BROKER", "RESOURCE_EXHAUSTED"})
T = TypeVar("T")


class PredictionClient:
    """Requests predictions: `async with PredictionClient(url) as client: await client.predict("price", features)`.

    Cancelling a call withdraws it: its reply is dropped. A lost connection is restored automatically.

    Args:
        url: the broker's AMQP URL.
        timeout_s: the default timeout of a call; it includes waiting and retries.
        connect_timeout_s: how long entering the client may take.
        namespace: the responders' RESPONDER_NAMESPACE.
        max_in_flight: the most calls at once; further calls wait, within their timeouts.
        retries: when to retry a failed attempt. All attempts of a call have its correlation id, so a late reply to an
            earlier attempt also answers the call.
        retry_budget: bounds the retries of all calls together.
        user_id: the broker's user in `url`, sent with each request; the broker refuses any other.
        exchange: where requests are published, e.g. `predictions`, for a user without write permission to the default
            exchange.
        reply_exchange: the responders' RESPONDER_REPLY_EXCHANGE; the reply queue is bound to it with its own name.
        reply_prefix: the first part of the reply queue's name.
        transport: carries requests and replies instead of RabbitMQ at `url`; see `prediction_client.testing`.
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
        reply_prefix: str = REPLY_PREFIX,
        transport: Transport | None = None,
    ) -> None:
        if max_in_flight < 1:
            msg = f"max_in_flight must be 1 or more, not {max_in_flight}"
            raise ValueError(msg)
        self._timeout_s = _check_timeout(timeout_s)
        self._connect_timeout_s = connect_timeout_s
        self._max_in_flight = max_in_flight
        self._room = Room(max_in_flight)
        self._retries = retries or Retries()
        # One lost connection fails all calls in flight: the budget allows a retry of each.
        self._budget = retry_budget or RetryBudget(burst=max(100.0, max_in_flight))
        broker = Broker(url, namespace, exchange, reply_exchange, reply_prefix, user_id)
        self._session = Session(broker, transport)

    def __repr__(self) -> str:
        return f"<PredictionClient {self._session!r}>"

    async def __aenter__(self) -> Self:
        await self._session.open(self._connect_timeout_s)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    @overload
    async def predict(self, model: str, features: BaseModel | Any, *, output: type[T], **options: Any) -> T: ...

    @overload
    async def predict(self, model: str, features: BaseModel | Any, **options: Any) -> Any: ...

    async def predict(self, model: str, features: BaseModel | Any, *, output: Any = None, **options: Any) -> Any:
        """The model's output for one input.

        Args:
            output: the type to return: a pydantic model, any type that pydantic knows, or a `TypeAdapter`; a JSON value
                by default.
            options: see `ask`.
        """
        adapter = adapter_of(output)
        return convert((await self.ask(model, features, **options)).value, adapter, output)

    async def ask(
        self,
        model: str,
        features: BaseModel | Any,
        *,
        timeout: float | None = None,  # noqa: ASYNC109 - it is sent with the request as its deadline
        cache_control: str | None = None,
        tenant: str | None = None,
    ) -> Prediction:
        """Request a prediction, with its cache status, age and model version.

        Args:
            model: the model's name.
            features: a pydantic model or a JSON value.
            timeout: seconds; the responder drops work for which no caller waits any more.
            cache_control: RFC 9111 request directives, e.g. `no-cache` or `max-age=5`.
            tenant: the cache namespace of the answer.

        Raises:
            UnknownModel: no queue takes requests for this model.
            DeadlineExceeded: no answer in time.
            OutcomeUnknown: the connection was lost; the model may or may not have been called.
            PredictionError: see `prediction_client.errors`.
            ValueError: the timeout is not finite.
        """
        timeout_s = self._timeout_s if timeout is None else _check_timeout(timeout)
        loop = asyncio.get_running_loop()
        deadline, attempt, identifier = loop.time() + timeout_s, 1, self._session.new_id()
        unknown: OutcomeUnknown | None = None
        body = encode_input(features)
        if timeout_s <= 0:
            msg = f"no answer from {model!r} in time: nothing was sent, because the timeout is {timeout_s:g} s"
            raise DeadlineExceeded(msg)
        self._budget.note_call()
        while True:
            await self._room.enter(deadline)
            try:
                return await self._session.attempt(identifier, model, body, deadline, cache_control, tenant)
            except PredictionError as error:
                unknown = error if isinstance(error, OutcomeUnknown) else unknown
                delay_s = self._retries.delay_s(error, attempt, deadline - loop.time())
                if delay_s is None or not self._budget.take():
                    if unknown is not None and error.code in _NOT_TAKEN:
                        # The broker did not take this attempt, but it may have taken an earlier one.
                        raise OutcomeUnknown(f"{unknown.message}; the last attempt failed: {error.message}") from error
                    raise
            finally:
                self._room.leave()
            if not await self._session.pause(delay_s) and unknown is not None:
                raise unknown
            self._session.check_open()
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
        """The model's outputs, in the order of the inputs; at most `max_in_flight` calls run at once.

        Args:
            inputs: may be a large or endless iterable; it is read as answers come.
            output: see `predict`.
            errors: `raise` raises the first error and cancels the other calls; `return` puts errors into the list.
            options: see `ask`; the timeout applies to each call.
        """
        call = partial(self.predict, model, output=output, **options)
        return await call_for_each(call, inputs, at_once=self._max_in_flight, errors=errors)

    async def warm(
        self,
        model: str,
        inputs: Iterable[Any],
        *,
        timeout: float | None = None,  # noqa: ASYNC109 - it is sent with each request
        tenant: str | None = None,
    ) -> int:
        """Have answers computed and cached without waiting for them; return the number of requests.

        It returns when the broker has confirmed all requests, which may be before the answers are computed.

        Args:
            timeout: seconds after which the responder drops requests that it has not started.

        Raises:
            UnknownModel, ResourceExhausted, OutcomeUnknown: the broker did not take a request; the first such error.
            NoBroker: the client is not open.
        """
        left_s = self._timeout_s if timeout is None else _check_timeout(timeout)
        loop = asyncio.get_running_loop()

        def message(one: Any) -> Message:
            self._session.check_open()
            body, give_up_at = encode_input(one), loop.time() + left_s
            return self._session.channel.writer.unanswered(
                model, body, left_s=left_s, give_up_at=give_up_at, tenant=tenant
            )

        return await publish_and_confirm(self._session.channel.outbox, map(message, inputs), model)


def _check_timeout(timeout_s: float) -> float:
    if not math.isfinite(timeout_s):
        msg = f"a timeout must be a finite number of seconds, not {timeout_s}"
        raise ValueError(msg)
    return timeout_s
