"""Finds the message that makes the broker close its channel, by sending the candidates again one at a time."""

from collections import Counter, deque
from collections.abc import Iterable

from amqp_lane.port import Message

LONE_FAILURES = 5
ADDRESSES_KEPT, BARRED = 1024, 2


class Quarantine:
    """Holds the messages that were unconfirmed when the broker closed a channel, and finds the message at fault.

    A message is at fault only if other messages can be sent: it failed alone, then another message was confirmed, and
    then it failed alone again. When nothing can be sent at all (a permission was lost, an exchange was deleted), every
    message fails alone and none is at fault. They all wait until that ends, or until their `give_up_at`.
    """

    def __init__(self) -> None:
        self._held: deque[Message] = deque()
        self._failed: dict[Message, tuple[int, int]] = {}  # failures alone, and the count of confirms at the last one
        self._confirms = 0
        self.alone: Message | None = None
        self.is_due = False

    @property
    def waiting(self) -> int:
        """How many messages are held."""
        return len(self._held)

    def hold(self, messages: Iterable[Message]) -> None:
        """Hold messages that were unconfirmed together when their channel ended."""
        self._held.extend(messages)

    def next(self) -> Message:
        """Take the next held message. The caller sends it alone."""
        self.alone = self._held.popleft()
        return self.alone

    def note_confirms(self, count: int) -> None:
        """Count messages that were confirmed or returned: they prove that the channel carries messages."""
        self._confirms += count

    def release(self) -> None:
        """The fate of the lone message is known. A normal batch goes before the next held message."""
        if self.alone is not None:
            self._failed.pop(self.alone, None)
            self.alone, self.is_due = None, False

    def is_at_fault(self, *, by_the_broker: bool) -> bool:
        """Whether the lone message, whose channel has ended, was the cause. If not, it is held for another try.

        Args:
            by_the_broker: the broker closed the channel. A lost socket proves less, so it takes more failures.
        """
        message, self.alone, self.is_due = self.alone, None, False
        if message is None:
            return False
        times, confirms = self._failed.pop(message, (0, -1))
        if self._confirms > confirms >= 0 or not times:
            times += 1
        if times >= (2 if by_the_broker else LONE_FAILURES):
            return True
        self._failed[message] = times, self._confirms
        self._held.append(message)
        return False

    def give_up(self, now: float) -> list[Message]:
        """Remove and return the messages past their `give_up_at`."""
        late = [message for message in self._held if message.give_up_at <= now]
        if late:
            self._held = deque(message for message in self._held if message.give_up_at > now)
            for message in late:
                self._failed.pop(message, None)
        return late


class FailedAddresses:
    """Routing keys on which the broker itself has failed (RabbitMQ 3.10 does on a stale direct reply-to address).

    An address is barred after one failure as the only candidate, or after two failures among several candidates.
    """

    def __init__(self) -> None:
        self._failures: Counter[bytes] = Counter()

    def __len__(self) -> int:
        return len(self._failures)

    def is_barred(self, address: bytes) -> bool:
        """Whether messages to this address are refused."""
        return self._failures.get(address, 0) >= BARRED

    def note(self, addresses: set[bytes]) -> None:
        """Count a broker failure against the addresses that may have caused it."""
        if len(self._failures) > ADDRESSES_KEPT:
            self._failures.clear()
        for address in addresses:
            self._failures[address] += BARRED if len(addresses) == 1 else 1
