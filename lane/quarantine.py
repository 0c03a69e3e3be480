"""Messages on which the broker may have closed a channel: sent again one at a time, so that a culprit stands alone."""

from collections import deque
from collections.abc import Iterable

from lane.port import Message

LONE_FAILURES = 5


class Quarantine:
    """Who was unconfirmed when the broker closed a channel, and what became of them alone.

    A message whose channel is closed is guilty only if others can be sent: it has failed alone, then another was
    confirmed, and then it has failed alone again. Where nothing can be sent to anybody (a right was lost, an exchange
    deleted), everybody fails alone and nobody is guilty: they wait until that is over, or until their time is.
    """

    def __init__(self) -> None:
        self._held: deque[Message] = deque()
        self._failed: dict[Message, tuple[int, int]] = {}  # how often alone, and the confirms by then
        self._confirms = 0
        self.alone: Message | None = None
        self.is_due = False

    @property
    def waiting(self) -> int:
        """How many are held."""
        return len(self._held)

    def hold(self, messages: Iterable[Message]) -> None:
        """They were unconfirmed together when their channel ended."""
        self._held.extend(messages)

    def next(self) -> Message:
        """The next one to be sent, with nothing beside it."""
        self.alone = self._held.popleft()
        return self.alone

    def note_confirms(self, count: int) -> None:
        """So many messages were confirmed, or returned: their channel carries messages."""
        self._confirms += count

    def release(self) -> None:
        """The lone one's fate is known; others have their turn before the next of these."""
        if self.alone is not None:
            self._failed.pop(self.alone, None)
            self.alone, self.is_due = None, False

    def is_guilty(self, *, by_the_broker: bool) -> bool:
        """The lone one's channel has ended: whether that was its fault. If not, it is held for another try.

        Args:
            by_the_broker: it said so; a socket that is merely lost proves little, and has to be lost more often.
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
        """Take out those that it makes no sense to send any more."""
        late = [message for message in self._held if message.give_up_at <= now]
        if late:
            self._held = deque(message for message in self._held if message.give_up_at > now)
            for message in late:
                self._failed.pop(message, None)
        return late
