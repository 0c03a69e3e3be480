"""The asyncio client: an exclusive reply queue, and a future for each call."""

import asyncio
import math
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import Any, Literal, Self, TypeVar, Unpack, overload

from pydantic import BaseModel

from amqp_lane import Message, Transport
from prediction_client.attempts import Attempts
from prediction_client.calls import Room
from prediction_client.errors import DeadlineExceeded, PredictionError
from prediction_client.many import call_for_each, publish_and_confirm
from prediction_client.options import CallOptions, ClientOptions, environment_options
from prediction_client.prediction import Prediction
from prediction_client.reply_channel import Broker
from prediction_client.request import encode_input
from prediction_client.retry import Retries, RetryBudget
from prediction_client.session import Session
from prediction_client.typed import Output, adapter_of, convert
from prediction_schemas.wire import REPLY_PREFIX

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
        broker = Broker(url, namespace, exchange, reply_exchange, reply_prefix, user_id)
        self._session = Session(broker, transport)
        # One lost connection fails all calls in flight: the budget allows a retry of each.
        budget = retry_budget or RetryBudget(burst=max(100.0, max_in_flight))
        self._attempts = Attempts(self._session, Room(max_in_flight), retries or Retries(), budget)
        self._is_connected = False

    @classmethod
    async def connect(cls, url: str, **options: Unpack[ClientOptions]) -> Self:
        """Create a client and open it, for programs that cannot use `async with`. Close it with `close()`.

        Args:
            url, options: see `PredictionClient`.

        Raises:
            NoBroker: the broker cannot be reached within `connect_timeout_s`.
        """
        client = cls(url, **options)
        await client.__aenter__()
        client._is_connected = True
        return client

    @classmethod
    def from_environment(cls, **options: Unpack[ClientOptions]) -> Self:
        """A client of the broker at AMQP_URL, in the namespace RESPONDER_NAMESPACE: `async with` opens it.

        Args:
            options: see `PredictionClient`; they go before the environment.
        """
        url, chosen = environment_options(options)
        return cls(url, **chosen)

    def __repr__(self) -> str:
        return f"<PredictionClient {self._session!r}>"

    async def __aenter__(self) -> Self:
        if not self._is_connected:
            await self._session.open(self._connect_timeout_s)
        self._is_connected = False
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the client. Calls that wait end with OutcomeUnknown, later ones with NoBroker."""
        self._is_connected = False
        await self._session.close()

    @overload
    async def predict(
        self, model: str, features: BaseModel | Any, *, output: Output[T], **options: Unpack[CallOptions]
    ) -> T: ...

    @overload
    async def predict(
        self, model: str, features: BaseModel | Any, *, output: None = None, **options: Unpack[CallOptions]
    ) -> Any: ...

    async def predict(
        self, model: str, features: BaseModel | Any, *, output: Any = None, **options: Unpack[CallOptions]
    ) -> Any:
        """The model's output for one input.

        Args:
            output: the type to return: a pydantic model, any type that pydantic knows, or a `TypeAdapter`; a JSON value
                by default.
            options: see `ask`.
        """
        return (await self.ask(model, features, output=output, **options)).value

    @overload
    async def ask(
        self, model: str, features: BaseModel | Any, *, output: Output[T], **options: Unpack[CallOptions]
    ) -> Prediction[T]: ...

    @overload
    async def ask(
        self, model: str, features: BaseModel | Any, *, output: None = None, **options: Unpack[CallOptions]
    ) -> Prediction[Any]: ...

    async def ask(
        self,
        model: str,
        features: BaseModel | Any,
        *,
        output: Any = None,
        timeout_s: float | None = None,
        cache_control: str | None = None,
        tenant: str | None = None,
    ) -> Prediction[Any]:
        """Request a prediction, with its cache status, age and model version.

        Args:
            model: the model's name.
            features: a pydantic model or a JSON value.
            output: see `predict`.
            timeout_s: seconds that the caller waits, retries included. It is sent with the request: the responder drops
                work for which no caller waits any more.
            cache_control: RFC 9111 request directives, e.g. `no-cache` or `max-age=5`.
            tenant: the cache namespace of the answer.

        Raises:
            UnknownModel: no queue takes requests for this model.
            DeadlineExceeded: no answer in time.
            OutcomeUnknown: the connection was lost; the model may or may not have been called.
            PredictionError: see `prediction_client.errors`; each has the model and the correlation id of the call.
            ValueError: the timeout is not finite.
        """
        limit_s = self._timeout_s if timeout_s is None else _check_timeout(timeout_s)
        adapter, identifier = adapter_of(output), self._session.new_id()
        deadline = asyncio.get_running_loop().time() + limit_s
        try:
            body = encode_input(features)
            if limit_s <= 0:
                msg = f"no answer from {model!r} in time: nothing was sent, because the timeout is {limit_s:g} s"
                raise DeadlineExceeded(msg)
            reply = await self._attempts.run(identifier, model, body, deadline, cache_control, tenant)
            return reply if adapter is None else replace(reply, value=convert(reply.value, adapter, output))
        except PredictionError as error:
            error.model, error.correlation_id = model, identifier.decode()
            raise

    @overload
    async def predict_many(
        self,
        model: str,
        inputs: Iterable[Any],
        *,
        output: Output[T],
        return_errors: Literal[True],
        **options: Unpack[CallOptions],
    ) -> list[T | PredictionError]: ...

    @overload
    async def predict_many(
        self,
        model: str,
        inputs: Iterable[Any],
        *,
        output: Output[T],
        return_errors: Literal[False] = False,
        **options: Unpack[CallOptions],
    ) -> list[T]: ...

    @overload
    async def predict_many(
        self,
        model: str,
        inputs: Iterable[Any],
        *,
        output: None = None,
        return_errors: bool = False,
        **options: Unpack[CallOptions],
    ) -> list[Any]: ...

    @overload
    async def predict_many(
        self,
        model: str,
        inputs: Iterable[Any],
        *,
        output: Output[T],
        return_errors: bool,
        **options: Unpack[CallOptions],
    ) -> list[T | PredictionError]: ...

    async def predict_many(
        self,
        model: str,
        inputs: Iterable[Any],
        *,
        output: Any = None,
        return_errors: bool = False,
        **options: Unpack[CallOptions],
    ) -> list[Any]:
        """The model's outputs, in the order of the inputs; at most `max_in_flight` calls run at once.

        Args:
            inputs: may be a large or endless iterable; it is read as answers come.
            output: see `predict`.
            return_errors: put a `PredictionError` in the place of each answer that failed. By default the first one is
                raised, and the other calls are cancelled.
            options: see `ask`; the timeout applies to each call.
        """
        call = partial(self.predict, model, output=output, **options)
        return await call_for_each(call, inputs, at_once=self._max_in_flight, return_errors=return_errors)

    async def warm(
        self, model: str, inputs: Iterable[Any], *, timeout_s: float | None = None, tenant: str | None = None
    ) -> int:
        """Have answers computed and cached without waiting for them; return the number of requests.

        It returns when the broker has confirmed all requests, which may be before the answers are computed.

        Args:
            timeout_s: seconds after which the responder drops requests that it has not started.

        Raises:
            UnknownModel, ResourceExhausted, OutcomeUnknown: the broker did not take a request; the first such error.
            NoBroker: the client is not open.
        """
        left_s = self._timeout_s if timeout_s is None else _check_timeout(timeout_s)
        loop = asyncio.get_running_loop()

        def message(one: Any) -> Message:
            self._session.check_open()
            body, give_up_at = encode_input(one), loop.time() + left_s
            return self._session.channel.writer.unanswered(
                model, body, left_s=left_s, give_up_at=give_up_at, tenant=tenant
            )

        try:
            return await publish_and_confirm(self._session.channel.outbox, map(message, inputs), model)
        except PredictionError as error:
            error.model = model
            raise


def _check_timeout(timeout_s: float) -> float:
    if not math.isfinite(timeout_s):
        msg = f"a timeout must be a finite number of seconds, not {timeout_s}"
        raise ValueError(msg)
    return timeout_s
