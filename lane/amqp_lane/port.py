"""The values that cross the lane's border.

Text that belongs to others (identifiers, addresses, header values) stays bytes from end to end: AMQP 0-9-1
gives it no encoding, and what is never decoded can never fail to decode.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from types import MappingProxyType
from typing import Any

from amqp_lane.template import BLANK, Template

NO_HEADERS: Mapping[bytes, bytes | None] = MappingProxyType({})


@dataclass(slots=True)
class Properties:
    """The basic properties that a user of the lane may need (AMQP 0-9-1 section 4.2.6.1); None means absent.

    `headers` holds the headers that the inbox was told to look for; one whose value is not a string is there
    with the value None. `broken` says that the header was cut short, or worse, and something may be missing.
    """

    content_type: bytes | None = None
    content_encoding: bytes | None = None
    correlation_id: bytes | None = None
    message_id: bytes | None = None
    reply_to: bytes | None = None
    expiration: bytes | None = None
    type: bytes | None = None
    user_id: bytes | None = None
    headers: Mapping[bytes, bytes | None] = field(default_factory=lambda: NO_HEADERS)
    broken: bool = False


@dataclass(slots=True, eq=False)
class Delivery:
    """One message as it was delivered, and the handle by which it is settled.

    `body` is None when it was over the inbox's limit; it was skipped as it arrived. `epoch` names the incarnation of
    the channel that `tag` belongs to: a tag of an ended one is never written.
    """

    queue: str
    body: bytes | None
    properties: Properties
    redelivered: bool
    tag: int
    epoch: int


class Settlement(Enum):
    """What to tell the broker about a delivery.

    ACK: done. REQUEUE: not started, give it to somebody else (`basic.nack`, which RabbitMQ 4.3 does not count
    as an attempt). DEAD_LETTER: nobody can do this (`basic.reject` without requeue).
    """

    ACK = auto()
    REQUEUE = auto()
    DEAD_LETTER = auto()


@dataclass(slots=True, eq=False)
class Message:
    """One message to publish.

    Args:
        routing_key: on the exchange that the outbox was given.
        body: the content.
        template: the properties that it shares with others.
        correlation_id, expiration: its own. The outbox writes a `message_id`, fresh for every publish, where it has to
            recognise a return.
        fields: headers, encoded by `lane.header_field` and joined; those that are always the same need it once.
        mandatory: ask for the message back when no queue takes it.
        retry: publish again after a lost connection. Without it an unconfirmed message is ABANDONED at once.
        give_up_at: when sending it makes no sense any more, on the event loop's clock; then it is ABANDONED.
        token: handed back with the message's fate; the lane never looks at it.
        attempts, written_at: the outbox's own notes.
    """

    routing_key: bytes
    body: bytes
    template: Template = BLANK
    correlation_id: bytes | None = None
    expiration: bytes | None = None
    fields: bytes = b""
    mandatory: bool = True
    retry: bool = True
    give_up_at: float = math.inf
    token: Any = None
    attempts: int = 0
    written_at: float = 0.0


class Fate(Enum):
    """What became of a published message.

    CONFIRMED: the broker has it. RETURNED: no queue took it. REFUSED: the broker would not have it (nack, or a
    queue that is full, or over a size limit; or it closes the channel on this message and not on others). ABANDONED:
    given up, it may or may not have arrived.
    """

    CONFIRMED = auto()
    RETURNED = auto()
    REFUSED = auto()
    ABANDONED = auto()


@dataclass(frozen=True, slots=True)
class Binding:
    """An exchange that feeds a queue."""

    exchange: str
    routing_key: str


@dataclass(frozen=True, slots=True)
class ExchangeSpec:
    """A durable exchange, `direct` or `topic`."""

    name: str
    type: str = "direct"


@dataclass(frozen=True, slots=True)
class QueueSpec:
    """A queue, and how it is declared when it is declared.

    Args:
        name: the queue's name.
        durable, exclusive: as in `queue.declare`.
        arguments: `x-` arguments.
        binding: what the queue is bound to when it is declared.
        consume: False declares the queue and leaves it to others (a dead-letter queue, say).
    """

    name: str
    durable: bool = True
    exclusive: bool = False
    arguments: Mapping[str, Any] = field(default_factory=dict)
    binding: Binding | None = None
    consume: bool = True
