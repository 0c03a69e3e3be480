"""Finds the message on which a broker closes its channel: those that it may be are sent again one at a time."""

from collections import Counter, deque
from collections.abc import Iterable

from amqp_lane.port import Message

LONE_FAILURES = 5
ADDRESSES_KEPT, BARRED = 1024, 2


class Quarantine:
    """Holds what was unconfirmed when the broker closed a channel, and finds the message at fault.

    A message is at fault only if others can be sent: it has failed alone, then another was confirmed, and then it has
    failed alone again. Where nothing can be sent at all (a right was lost, an exchange deleted), every message fails
    alone and none is at fault: they wait until that is over, or until their time is.
    """

    def __init__(self) -> None:
        self._held: deque[Message] = deque()
        self._failed: dict[Message, tuple[int, int]] = {}  # how often alone, and the confirms by then
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
        """The next message to send, with nothing beside it."""
        self.alone = self._held.popleft()
        return self.alone

    def note_confirms(self, count: int) -> None:
        """This many messages were confirmed or returned: their channel carries messages."""
        self._confirms += count

    def release(self) -> None:
        """The fate of the lone message is known; others have their turn before the next held one."""
        if self.alone is not None:
            self._failed.pop(self.alone, None)
            self.alone, self.is_due = None, False

    def is_at_fault(self, *, by_the_broker: bool) -> bool:
        """The channel of the lone message has ended: whether it was the cause. If not, it is held for another try.

        Args:
            by_the_broker: the broker said so. A lost socket proves less, and has to be lost more often.
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
        """Take out messages whose time is over."""
        late = [message for message in self._held if message.give_up_at <= now]
        if late:
            self._held = deque(message for message in self._held if message.give_up_at > now)
            for message in late:
                self._failed.pop(message, None)
        return late


class FailedAddresses:
    """Routing keys on which the broker itself has failed (RabbitMQ 3.10 does on a stale direct reply-to address).

    An address that stood alone when the broker failed is barred; one that stood among others is barred the second time.
    """

    def __init__(self) -> None:
        self._failures: Counter[bytes] = Counter()

    def __len__(self) -> int:
        return len(self._failures)

    def is_barred(self, address: bytes) -> bool:
        """Whether nothing is sent there any more."""
        return self._failures.get(address, 0) >= BARRED

    def note(self, addresses: set[bytes]) -> None:
        """The broker failed on one of these."""
        if len(self._failures) > ADDRESSES_KEPT:
            self._failures.clear()
        for address in addresses:
            self._failures[address] += BARRED if len(addresses) == 1 else 1
