"""Calls for many inputs: results in order, a bounded number at once."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sized
from itertools import islice
from typing import Any

from amqp_lane import Fate, Message, Publisher
from prediction_client.errors import OutcomeUnknown, PredictionError, ResourceExhausted, UnknownModel

_AT_ONCE = 500  # requests without a reply that are published, and confirmed, at a time


def error_of_fate(fate: Fate, model: str) -> PredictionError:
    """The error for a request that the broker did not confirm."""
    match fate:
        case Fate.RETURNED:
            return UnknownModel(f"no queue takes requests for the model {model!r}")
        case Fate.REFUSED:
            return ResourceExhausted("the broker refused the request; the model's queue may be full", retryable=True)
        case _:
            msg = "the connection was lost; the request may or may not have arrived"
            return OutcomeUnknown(msg, retryable=True)


async def call_for_each(
    call: Callable[[Any], Awaitable[Any]], inputs: Iterable[Any], *, at_once: int, return_errors: bool
) -> list[Any]:
    """Make a call for each input; return the results in the order of the inputs.

    Args:
        at_once: how many calls run at a time; inputs are read no faster.
        return_errors: put errors into the list; otherwise the first one is raised, and the other calls are cancelled.
    """
    if isinstance(inputs, Sized):
        at_once = min(at_once, len(inputs))
    answers: dict[int, Any] = {}
    numbered = enumerate(inputs)

    async def work() -> None:
        for number, one in numbered:
            try:
                answers[number] = await call(one)
            except PredictionError as error:
                if not return_errors:
                    raise
                answers[number] = error

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(at_once):
                group.create_task(work())
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from None
    return [answers[number] for number in range(len(answers))]


class Warming:
    """A batch of requests without a reply; `done` is set when the broker has confirmed all of them."""

    def __init__(self, model: str, count: int) -> None:
        self._model = model
        self._left = count
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def note(self, fate: Fate) -> None:
        """Record the fate of one request."""
        self._left -= 1
        if self.done.done():
            return
        if fate is not Fate.CONFIRMED:
            self.done.set_exception(error_of_fate(fate, self._model))
        elif not self._left:
            self.done.set_result(None)


async def publish_and_confirm(outbox: Publisher, messages: Iterable[Message], model: str) -> int:
    """Publish the requests, wait until the broker has confirmed them, and return how many there were."""
    rest, count = iter(messages), 0
    while batch := list(islice(rest, _AT_ONCE)):
        warming = Warming(model, len(batch))
        for message in batch:
            message.token = warming
        outbox.send(batch)
        await warming.done
        count += len(batch)
    return count
