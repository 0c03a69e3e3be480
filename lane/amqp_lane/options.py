"""The options of consumers and publishers, as type checkers see them: every transport takes the same."""

from collections.abc import Callable, Collection, Sequence
from typing import Any, Required, TypedDict

from amqp_lane.port import ExchangeSpec, Fate, Message


class InboxOptions(TypedDict, total=False):
    """See `amqp_lane.inbox.Inbox`."""

    name: Required[str]
    prefetch: Required[int]
    exchanges: Sequence[ExchangeSpec]
    headers: Collection[bytes]
    max_body_bytes: int
    no_ack: bool
    declare: bool
    on_lost: Callable[[], None]


class OutboxOptions(TypedDict, total=False):
    """See `amqp_lane.outbox.Outbox`."""

    name: Required[str]
    on_fate: Required[Callable[[list[Message], Fate], None]]
    exchange: str
    patience_s: float
    nack_retries: int
    max_body_bytes: int


def check_options(given: InboxOptions | OutboxOptions, known: Any) -> None:
    """Refuse options that the kind does not have, for a transport that does not pass them on.

    Raises:
        TypeError: an option is not known.
    """
    unknown = sorted(given.keys() - known.__annotations__.keys())
    if unknown:
        msg = f"unknown option {unknown[0]!r}"
        raise TypeError(msg)
