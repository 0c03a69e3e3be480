"""A responder that kills itself, once for each request, at a named point of a request's way.

    CRASH_POINT=stored CRASH_FOLDER=/tmp/x python -m tests.crash_at serve tests.models:fresh

The responder's own code is what runs; at the point it finds SIGKILL, which nothing can clean up after.
"""

import asyncio
import hashlib
import os
import signal
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import Any

from amqp_lane import Fate, Inbox, Message, Outbox
from amqp_lane.port import Delivery, Settlement
from prediction_responder.__main__ import main
from prediction_responder.amqp.pipeline import Pipeline
from prediction_responder.execution.served import ServedModel
from prediction_responder.flight.commit import Commits
from prediction_responder.flight.keeper import Lease
from prediction_responder.flight.lease import Leases
from prediction_responder.messages import Input, Outcome, Request


def die_once(item: bytes) -> None:
    """End this process unless one has died for this item before."""
    try:
        name = hashlib.blake2b(item, digest_size=16).hexdigest()
        os.close(os.open(Path(os.environ["CRASH_FOLDER"], name), os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return
    os.kill(os.getpid(), signal.SIGKILL)


def after(owner: type, name: str, item_of: Callable[..., Sequence[bytes]]) -> None:
    """Die when a method has returned; `item_of` is given its result and its arguments."""
    original = getattr(owner, name)

    @wraps(original)
    def wrapped(self: Any, *args: Any, **kwargs: Any) -> Any:
        result = original(self, *args, **kwargs)
        for item in item_of(result, *args):
            die_once(item)
        return result

    setattr(owner, name, wrapped)


def around_the_model(point: str) -> None:
    """Die while the model runs, or when it has ended and nobody knows yet."""
    answer = ServedModel.answer

    async def answering(self: ServedModel, value: Input, on_start: Callable[[], None]) -> Outcome:
        def start() -> None:
            on_start()
            if point == "running":
                die_once(value.body)

        outcome = await answer(self, value, start)
        if point == "completed":
            die_once(value.body)
        return outcome

    ServedModel.answer = answering  # type: ignore[method-assign]


def when_stored() -> None:
    """Die when an answer is in the cache and nobody here knows."""
    commit = Commits.commit

    async def committing(self: Commits, lease: Lease, *args: Any) -> bool:
        stored = await commit(self, lease, *args)
        die_once(lease.key.digest)
        return stored

    Commits.commit = committing  # type: ignore[assignment]


def when_written() -> None:
    """Die when the socket has a reply: a turn later, because the loop gathers what is written in one."""
    send = Outbox.send

    def sending(self: Outbox, messages: Sequence[Message]) -> None:
        send(self, messages)
        for message in messages:
            asyncio.get_running_loop().call_soon(die_once, message.correlation_id or b"")

    Outbox.send = sending  # type: ignore[method-assign]


def when_confirmed() -> None:
    """Die when the broker has a reply, and the request is not acknowledged."""
    settle_fates = Pipeline.settle_fates

    def settling(self: Pipeline, messages: Sequence[Message], fate: Fate) -> None:
        for message in messages:
            die_once(message.correlation_id or b"")
        settle_fates(self, messages, fate)

    Pipeline.settle_fates = settling  # type: ignore[method-assign]


def _of_requests(requests: list[Request], _batch: object) -> list[bytes]:
    return [request.body for request in requests]


def _of_lease(lease: Lease, *_: object) -> list[bytes]:
    return [lease.key.digest]


def _of_deliveries(_: None, deliveries: Sequence[Delivery], __: Settlement) -> list[bytes]:
    return [one.properties.correlation_id or b"" for one in deliveries]


INSTALL: dict[str, Callable[[], None]] = {
    "received": lambda: after(Pipeline, "_requests", _of_requests),
    "claimed": lambda: after(Leases, "_lead", _of_lease),
    "running": lambda: around_the_model("running"),
    "completed": lambda: around_the_model("completed"),
    "stored": when_stored,
    "written": when_written,
    "confirmed": when_confirmed,
    "settled": lambda: after(Inbox, "settle", _of_deliveries),
}
POINTS = tuple(INSTALL)


if __name__ == "__main__":
    INSTALL[os.environ["CRASH_POINT"]]()
    main()
