"""The connected state of a client: open, send attempts, close."""

import asyncio
import contextlib
from typing import Any

from amqp_lane import Transport
from prediction_client.calls import Calls
from prediction_client.errors import DeadlineExceeded, NoBroker
from prediction_client.prediction import Prediction
from prediction_client.reply_channel import Broker, ReplyChannel
from prediction_client.tracing import find_trace


class Session:
    """Sends requests and awaits their replies while it is open.

    Args:
        broker: where to connect, and the names to use there.
        transport: carries messages instead of RabbitMQ.
    """

    def __init__(self, broker: Broker, transport: Transport | None) -> None:
        self._calls = Calls()
        self._trace = find_trace()
        self._reader: asyncio.Task[None] | None = None
        self._is_entered = False
        self._closed = asyncio.Event()
        self.channel = ReplyChannel(
            broker,
            purpose="prediction client",
            on_lost=lambda: self._calls.fail_all("the connection was lost before the reply came", retryable=True),
            on_fate=self._calls.note_fates,
            transport=transport,
        )

    def __repr__(self) -> str:
        return f"{self.channel.queue} waiting={len(self._calls)}"

    async def open(self, timeout_s: float) -> None:
        """Connect.

        Raises:
            NoBroker: the broker cannot be reached within this time.
        """
        if self._is_entered:
            msg = "a client can be entered only once; create a new one"
            raise RuntimeError(msg)
        self._is_entered = True
        await self.channel.__aenter__()
        try:
            async with asyncio.timeout(timeout_s):
                await self.channel.up()
        except BaseException as error:
            why = self.channel.problem or "no answer"
            await self._leave()
            if isinstance(error, TimeoutError):
                msg = f"the broker cannot be reached: {why}"
                raise NoBroker(msg, retryable=True) from error
            raise
        self._reader = asyncio.create_task(self._calls.read(self.channel.inbox), name="prediction client reader")

    async def close(self) -> None:
        """Fail all waiting calls, then close both connections."""
        self._closed.set()
        self._calls.fail_all("the client was closed before the reply came", retryable=False)
        await self._leave()

    async def _leave(self) -> None:
        self._closed.set()
        try:
            await self.channel.__aexit__(None, None, None)
        finally:
            if self._reader is not None:
                await self._reader

    def check_open(self) -> None:
        """Raise NoBroker unless the session is open."""
        if not self._is_entered or self._closed.is_set():
            msg = "the client is closed, or was never entered"
            raise NoBroker(msg)

    async def pause(self, delay_s: float) -> bool:
        """Wait between two attempts; False if the client is closed during the wait."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(delay_s):
                await self._closed.wait()
        return not self._closed.is_set()

    def new_id(self) -> bytes:
        """The correlation id of a new call."""
        return self._calls.new_id()

    async def attempt(
        self,
        identifier: bytes,
        model: str,
        body: bytes,
        deadline: float,
        cache_control: str | None,
        tenant: str | None,
    ) -> Prediction[Any]:
        """Send one request, and wait for the reply to it or to an earlier attempt of the same call."""
        loop = asyncio.get_running_loop()
        if not self.channel.inbox.is_consuming or self._closed.is_set():
            await self._wait_for_reply_queue(deadline, model)
        message = self.channel.writer.message(
            identifier,
            model,
            body,
            left_s=deadline - loop.time(),
            give_up_at=deadline,
            cache_control=cache_control,
            tenant=tenant,
            trace=self._trace(),
        )
        future = self._calls.begin(identifier)
        message.token = future, model
        timer = loop.call_at(deadline, self._time_out, identifier, model)
        try:
            self.channel.outbox.send((message,))
            return await future
        finally:
            timer.cancel()
            self._calls.end(identifier)
            message.withdraw()  # the caller waits no longer

    def _time_out(self, identifier: bytes, model: str) -> None:
        why = f": {self.channel.outbox.last_error}" if self.channel.outbox.last_error else ""
        self._calls.resolve(identifier, DeadlineExceeded(f"no answer from {model!r} in time{why}"))

    async def _wait_for_reply_queue(self, deadline: float, model: str) -> None:
        """Wait until the reply queue exists and is consumed.

        Raises:
            NoBroker: the client is closed, before or during the wait.
            DeadlineExceeded: the reply queue does not exist in time.
        """
        self.check_open()
        waits = {asyncio.ensure_future(self.channel.inbox.consuming()), asyncio.ensure_future(self._closed.wait())}
        left_s = deadline - asyncio.get_running_loop().time()
        try:
            done, _ = await asyncio.wait(waits, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        self.check_open()
        if not done:
            why = self.channel.inbox.last_error or "still connecting"
            msg = f"no answer from {model!r} in time: not connected: {why}"
            raise DeadlineExceeded(msg)
