"""Calls that wait for their replies, and the limit on calls in flight."""

import asyncio
import itertools
import secrets
from collections.abc import Sequence
from typing import Any

from amqp_lane import Consumer, Fate, Message
from prediction_client.errors import DeadlineExceeded, OutcomeUnknown, PredictionError
from prediction_client.many import Warming, error_of_fate
from prediction_client.prediction import Prediction, prediction_of


class Room:
    """Bounds the calls in flight.

    Args:
        size: the most calls at once.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._permits = asyncio.Semaphore(size)

    async def enter(self, deadline: float) -> None:
        """Wait for a permit.

        Raises:
            DeadlineExceeded: no permit in time.
        """
        if not self._permits.locked():
            await self._permits.acquire()
            return
        try:
            async with asyncio.timeout_at(deadline):
                await self._permits.acquire()
        except TimeoutError:
            msg = f"the call was not sent in time: {self._size} other calls were in flight (max_in_flight)"
            raise DeadlineExceeded(msg) from None

    def leave(self) -> None:
        """Return the permit."""
        self._permits.release()


class Calls:
    """Waiting calls by correlation id. The ids cannot be guessed, so a forged reply finds no call."""

    def __init__(self) -> None:
        session = secrets.token_hex(6).encode()
        self._ids = (b"%b-%d" % (session, number) for number in itertools.count(1))
        self._waiting: dict[bytes, asyncio.Future[Prediction[Any]]] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def new_id(self) -> bytes:
        """The correlation id of a new call."""
        return next(self._ids)

    def begin(self, identifier: bytes) -> "asyncio.Future[Prediction[Any]]":
        """Register a call; return the future of its result."""
        future: asyncio.Future[Prediction[Any]] = asyncio.get_running_loop().create_future()
        self._waiting[identifier] = future
        return future

    def end(self, identifier: bytes) -> None:
        """Remove a call."""
        del self._waiting[identifier]

    def resolve(self, identifier: bytes, outcome: Prediction[Any] | PredictionError) -> None:
        """Set the outcome of a call. A late or duplicate reply finds no waiting call, and is dropped."""
        future = self._waiting.get(identifier)
        if future is None or future.done():
            return
        if isinstance(outcome, PredictionError):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)

    def fail_all(self, why: str, *, retryable: bool) -> None:
        """Fail all waiting calls: the reply queue is gone, so no reply can come."""
        for identifier in list(self._waiting):  # one error per call: a shared one would collect the tracebacks of all
            self.resolve(identifier, OutcomeUnknown(why, retryable=retryable))

    def note_fates(self, messages: Sequence[Message], fate: Fate) -> None:
        """Fail attempts that were not confirmed. The call may be retried: an earlier attempt may still be answered."""
        for message in messages:
            if isinstance(message.token, Warming):
                message.token.note(fate)
            elif fate is not Fate.CONFIRMED:
                future, model = message.token
                if not future.done():
                    future.set_exception(error_of_fate(fate, model))

    async def read(self, inbox: Consumer) -> None:
        """Resolve calls with replies until the inbox stops."""
        async for batch in inbox:
            for delivery in batch:
                identifier = delivery.properties.correlation_id
                if identifier in self._waiting:  # do not decode late, duplicate or forged replies
                    self.resolve(identifier, prediction_of(delivery))
