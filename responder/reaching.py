"""A command's connections to RabbitMQ: up soon, or one line that says why not."""

import asyncio
import contextlib
from collections.abc import Sequence

from lane import Inbox, Outbox

CONNECT_S, GLANCE_S = 10.0, 0.1
# To try again changes nothing (AMQP 0-9-1, reply codes 403, 404, 406 and 530).
HOPELESS = ("NOT_FOUND", "ACCESS_REFUSED", "NOT_ALLOWED", "PRECONDITION_FAILED")


class NotReached(Exception):
    """The broker, or something in it; the message says why."""


async def reached(parts: Sequence[Inbox | Outbox]) -> None:
    """Wait until all are up. Their supervisors try for ever, which nobody who runs a command wants.

    Raises:
        NotReached: within ten seconds there was no broker, or it refused.
    """
    waits = [part.consuming() if isinstance(part, Inbox) else part.up() for part in parts]
    up, turns = asyncio.gather(*waits), round(CONNECT_S / GLANCE_S)
    for turn in range(turns):
        await asyncio.wait({up}, timeout=GLANCE_S)
        if up.done():
            return
        why = next((part.last_error for part in parts if part.last_error), f"no answer within {CONNECT_S:g} s")
        if turn == turns - 1 or any(word in why for word in HOPELESS):
            up.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await up
            raise NotReached(why)
