"""Publisher confirms: which published messages are not confirmed yet (RabbitMQ's page "Consumer acknowledgements and
publisher confirms").
"""

import secrets
from typing import NamedTuple

from amqp_lane import frames
from amqp_lane.encoding import encode_content, encode_publish
from amqp_lane.frames import Event, tag_and_multiple
from amqp_lane.port import Message
from amqp_lane.properties import locate

ROUTES_KEPT = 4096


class Settled(NamedTuple):
    """The messages that a batch of events settles."""

    confirmed: list[Message]
    refused: list[Message]
    returned: list[Message]


class Confirms:
    """The unconfirmed messages of one channel. Sequence numbers restart on a new channel.

    Args:
        exchange: where to publish.
        max_body_bytes: a larger body is refused.
    """

    def __init__(self, exchange: bytes, max_body_bytes: int) -> None:
        self._exchange = exchange
        self._max_body_bytes = max_body_bytes
        self.unconfirmed: dict[int, Message] = {}
        self.begin(0, 0)

    def begin(self, channel: int, frame_max: int) -> None:
        """Restart the sequence numbers, on the channel with this number."""
        self._channel, self._frame_max = channel, frame_max
        self._number = self._settled_to = 0
        self._returned: set[int] = set()
        self._routes: dict[tuple[bytes, bool], bytes] = {}
        self._prefix = f"{secrets.token_hex(6)}-".encode()

    def end(self) -> dict[int, Message]:
        """Return the messages that were unconfirmed when the channel ended."""
        unconfirmed, self.unconfirmed, self._returned = self.unconfirmed, {}, set()
        return unconfirmed

    def publish(self, message: Message) -> tuple[bytes, bytes]:
        """Encode a message as frames and count it as unconfirmed.

        Raises:
            ValueError: the message cannot be encoded. It takes no sequence number.
        """
        if len(message.body) > self._max_body_bytes:
            msg = f"its body has {len(message.body)} bytes, the limit is {self._max_body_bytes}"
            raise ValueError(msg)
        route = message.routing_key, message.mandatory
        head = self._routes.get(route)
        if head is None:
            head = encode_publish(self._channel, self._exchange, message.routing_key, mandatory=message.mandatory)
            if len(self._routes) >= ROUTES_KEPT:
                self._routes.clear()
            self._routes[route] = head
        # A return carries the message but not its sequence number, so the message id carries the number.
        identifier = b"%s%d" % (self._prefix, self._number + 1) if message.mandatory else None
        content = encode_content(
            self._channel,
            message.template,
            message.body,
            self._frame_max,
            correlation_id=message.correlation_id,
            expiration=message.expiration,
            message_id=identifier,
            fields=message.fields,
        )
        self._number += 1
        self.unconfirmed[self._number] = message
        return head, content

    def settle(self, events: list[Event]) -> Settled:
        """Apply confirms, nacks and returns. The broker sends a return before the confirm of the same message."""
        settled = Settled([], [], [])
        unconfirmed = self.unconfirmed
        for method, arguments, header, _ in events:
            if method == frames.BASIC_RETURN:
                self._note_return(header)
                continue
            number, multiple = tag_and_multiple(arguments)
            for one in range(self._settled_to + 1, number + 1) if multiple else (number,):
                message = unconfirmed.pop(one, None)
                if message is None:
                    continue
                if one in self._returned:
                    self._returned.discard(one)
                    settled.returned.append(message)
                elif method == frames.BASIC_ACK:
                    settled.confirmed.append(message)
                else:
                    settled.refused.append(message)
            # Every number up to `settled_to` is settled, so a later `multiple` starts after it.
            settled_to = max(self._settled_to, number) if multiple else self._settled_to
            while settled_to < self._number and settled_to + 1 not in unconfirmed:
                settled_to += 1
            self._settled_to = settled_to
        return settled

    def give_up(self, now: float, written_before: float) -> list[Message]:
        """Remove and return the messages past their `give_up_at`, and those written at `written_before` or earlier."""
        numbers = [
            number
            for number, message in self.unconfirmed.items()
            if message.give_up_at <= now or message.written_at <= written_before
        ]
        return [self.unconfirmed.pop(number) for number in numbers]

    def _note_return(self, header: bytes) -> None:
        identifier = locate(header, ()).message_id or b""
        number = identifier.removeprefix(self._prefix)
        if identifier.startswith(self._prefix) and number.isdigit() and int(number) in self.unconfirmed:
            self._returned.add(int(number))
