"""Calls that wait for their replies, and the room that bounds them."""

import asyncio
import itertools
import secrets
from collections.abc import Sequence

from amqp_lane import Consumer, Fate, Message
from prediction_client.errors import DeadlineExceeded, OutcomeUnknown, PredictionError
from prediction_client.many import Warming, error_of_fate
from prediction_client.prediction import Prediction, prediction_of


class Room:
    """Bounds the calls in flight.

    Args:
        size: calls at once.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._permits = asyncio.Semaphore(size)

    async def enter(self, deadline: float) -> None:
        """Wait for a permit.

        Raises:
            DeadlineExceeded: there was none in time.
        """
        if not self._permits.locked():
            await self._permits.acquire()
            return
        try:
            async with asyncio.timeout_at(deadline):
                await self._permits.acquire()
        except TimeoutError:
            msg = f"{self._size} calls were in flight all the time (max_in_flight)"
            raise DeadlineExceeded(msg) from None

    def leave(self) -> None:
        """Give a permit back."""
        self._permits.release()


class Calls:
    """Calls by their correlation id. A caller that knows no id cannot guess one, so a forged reply finds no call."""

    def __init__(self) -> None:
        session = secrets.token_hex(6).encode()
        self._ids = (b"%b-%d" % (session, number) for number in itertools.count(1))
        self._waiting: dict[bytes, asyncio.Future[Prediction]] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def new_id(self) -> bytes:
        """The correlation id of a new call."""
        return next(self._ids)

    def begin(self, identifier: bytes) -> "asyncio.Future[Prediction]":
        """A call waits from now on; its result."""
        future: asyncio.Future[Prediction] = asyncio.get_running_loop().create_future()
        self._waiting[identifier] = future
        return future

    def end(self, identifier: bytes) -> None:
        """It waits no more."""
        del self._waiting[identifier]

    def resolve(self, identifier: bytes, outcome: Prediction | PredictionError) -> None:
        """Give a call its result. A late or a second reply finds no call, and is dropped."""
        future = self._waiting.get(identifier)
        if future is None or future.done():
            return
        if isinstance(outcome, PredictionError):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)

    def fail_all(self, why: str, *, retryable: bool) -> None:
        """The reply queue is gone, and with it every reply that is still to come."""
        for identifier in list(self._waiting):  # an error each: one that many raise gathers all their tracebacks
            self.resolve(identifier, OutcomeUnknown(why, retryable=retryable))

    def note_fates(self, messages: Sequence[Message], fate: Fate) -> None:
        """What became of published requests. The fate belongs to one attempt; an earlier one may still be answered."""
        for message in messages:
            if isinstance(message.token, Warming):
                message.token.note(fate)
            elif fate is not Fate.CONFIRMED:
                future, model = message.token
                if not future.done():
                    future.set_exception(error_of_fate(fate, model))

    async def read(self, inbox: Consumer) -> None:
        """Resolve calls with what comes, until the inbox stops."""
        async for batch in inbox:
            for delivery in batch:
                identifier = delivery.properties.correlation_id
                if identifier in self._waiting:  # a late, second or forged reply is not even decoded
                    self.resolve(identifier, prediction_of(delivery))
