"""The value types of the lane's interface.

Text from other programs (identifiers, addresses, header values) stays bytes from end to end. AMQP 0-9-1 gives it no
encoding, and text that is never decoded cannot fail to decode.
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

    `headers` holds the headers that the inbox was told to look for; a value that is not a string is given as None.
    `broken` means that the content header was truncated or malformed, so properties may be missing.
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
    """One message as it was delivered, and the delivery tag that settles it.

    `body` is None when it was over the inbox's limit; it was skipped as it arrived. `epoch` is the number of the
    connection that `tag` belongs to. The tag is never sent on a later connection.
    """

    queue: str
    body: bytes | None
    properties: Properties
    redelivered: bool
    tag: int
    epoch: int


class Settlement(Enum):
    """What to tell the broker about a delivery.

    ACK: done. REQUEUE: not started, deliver it again (`basic.nack` with requeue, which RabbitMQ 4.3 does not count as
    an attempt). DEAD_LETTER: no consumer can process it (`basic.reject` without requeue).
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
        template: the properties that it shares with other messages.
        correlation_id, expiration: its own properties. The outbox sets `message_id` itself, a new one for each publish
            of a mandatory message, to recognise a return.
        fields: headers, each encoded by `amqp_lane.header_field`, concatenated. Encode constant headers only once.
        mandatory: ask the broker to return the message when no queue takes it.
        retry: publish again after a lost connection. Without it an unconfirmed message is ABANDONED at once.
        give_up_at: when it is no longer worth sending, on the event loop's clock; then it is ABANDONED.
        token: given back with the message's fate; the lane never reads it.
        attempts, written_at: state of the outbox.
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

    def withdraw(self) -> None:
        """Do not send it any more, unless it is written already; then it is ABANDONED."""
        self.give_up_at = -math.inf


class Fate(Enum):
    """What became of a published message.

    CONFIRMED: the broker has it. RETURNED: no queue took it. REFUSED: it was not accepted: a nack, a full queue, over
    the size limit, or the broker closes the channel on this message and not on others. ABANDONED: given up; it may or
    may not have arrived.
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
    """A queue and the arguments of its declaration.

    Args:
        name: the queue's name.
        durable, exclusive: as in `queue.declare`.
        arguments: `x-` arguments.
        binding: the exchange and routing key that the queue is bound to when it is declared.
        consume: False declares the queue without consuming it (for example a dead-letter queue).
    """

    name: str
    durable: bool = True
    exclusive: bool = False
    arguments: Mapping[str, Any] = field(default_factory=dict)
    binding: Binding | None = None
    consume: bool = True
