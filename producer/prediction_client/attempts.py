"""Attempts a call until it is answered, or until no retry can help in time."""

import asyncio
from typing import Any

from prediction_client.calls import Room
from prediction_client.errors import OutcomeUnknown, PredictionError
from prediction_client.prediction import Prediction
from prediction_client.retry import Retries, RetryBudget
from prediction_client.session import Session

_NOT_TAKEN = frozenset({"UNKNOWN_MODEL", "NO_BROKER", "RESOURCE_EXHAUSTED"})


class Attempts:
    """Sends the requests of calls.

    Args:
        session: sends one request.
        room: bounds the calls in flight.
        retries: when to retry a failed attempt.
        budget: bounds the retries of all calls together.
    """

    def __init__(self, session: Session, room: Room, retries: Retries, budget: RetryBudget) -> None:
        self._session = session
        self._room = room
        self._retries = retries
        self._budget = budget

    async def run(
        self, identifier: bytes, model: str, body: bytes, deadline: float, cache_control: str | None, tenant: str | None
    ) -> Prediction[Any]:
        """The answer of one call.

        Raises:
            PredictionError: of the last attempt; OutcomeUnknown if an earlier one may have reached the model.
        """
        loop, attempt = asyncio.get_running_loop(), 1
        unknown: OutcomeUnknown | None = None
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
