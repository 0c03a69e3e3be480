"""A command's connections to RabbitMQ: up within ten seconds, or an error of one line."""

import asyncio
import contextlib
from collections.abc import Sequence

from amqp_lane import ExchangeSpec, Inbox, Outbox, QueueSpec

CONNECT_S, POLL_S = 10.0, 0.1
# Errors that a retry does not cure (AMQP 0-9-1, reply codes 403, 404, 406 and 530).
FINAL = ("NOT_FOUND", "ACCESS_REFUSED", "NOT_ALLOWED", "PRECONDITION_FAILED")


class NotReached(Exception):
    """The broker cannot be reached, or it refuses the command; the message says why."""


async def wait_until_up(parts: Sequence[Inbox | Outbox]) -> None:
    """Wait until all connections are up. By themselves they retry forever; a command must end.

    Raises:
        NotReached: no broker answered within ten seconds, or the broker refused.
    """
    waits = [part.consuming() if isinstance(part, Inbox) else part.up() for part in parts]
    up, turns = asyncio.gather(*waits), round(CONNECT_S / POLL_S)
    for turn in range(turns):
        await asyncio.wait({up}, timeout=POLL_S)
        if up.done():
            return
        why = next((part.last_error for part in parts if part.last_error), f"no answer within {CONNECT_S:g} s")
        if turn == turns - 1 or any(word in why for word in FINAL):
            up.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await up
            raise NotReached(why)


async def declare(url: str, queues: Sequence[QueueSpec], exchanges: Sequence[ExchangeSpec]) -> None:
    """Declare queues and exchanges, and consume nothing.

    Raises:
        NotReached: no broker, no permission, or a queue or exchange of that name has other arguments.
    """
    async with Inbox(url, queues, name="declare", prefetch=1, exchanges=exchanges) as inbox:
        await wait_until_up([inbox])
