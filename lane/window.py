"""Which acknowledgements to write: one for a contiguous run of tags, single ones beyond a gap."""

from collections.abc import Iterable


class AckWindow:
    """The tags of one epoch. Delivery tags count from 1 on a channel (AMQP 0-9-1 section 1.8.3.13, basic.deliver).

    One slow request never holds the others back: tags beyond it are acknowledged singly, at once, and when it
    is done the run jumps over them. A `multiple` ack always names a tag that is still open, because the
    broker closes a channel on which a settled tag is settled again.
    """

    __slots__ = ("_acked", "_beyond", "_low", "delivered")

    def __init__(self) -> None:
        self.delivered = 0
        self._low = 0  # every tag up to here is settled and written
        self._beyond: set[int] = set()  # settled and written, above a gap
        self._acked: set[int] = set()  # to be acknowledged, not written yet

    def __repr__(self) -> str:
        return f"<AckWindow low={self._low} unsettled={self.unsettled}>"

    @property
    def unsettled(self) -> int:
        """How many delivered tags are not settled."""
        return self.delivered - self._low - len(self._beyond) - len(self._acked)

    @property
    def waiting(self) -> int:
        """How many tags the next `take` acknowledges."""
        return len(self._acked)

    def ack(self, tags: Iterable[int]) -> None:
        """Acknowledge tags with the next `take`; a second time is ignored."""
        low, beyond = self._low, self._beyond
        self._acked.update(tag for tag in tags if tag > low and tag not in beyond)

    def settle(self, tag: int) -> bool:
        """Note a tag that is settled by a frame of its own; False if it already was."""
        if tag <= self._low or tag in self._beyond or tag in self._acked:
            return False
        self._beyond.add(tag)
        return True

    def take(self) -> list[tuple[int, bool]]:
        """The acknowledgements to write now, as (tag, multiple)."""
        acked, beyond = self._acked, self._beyond
        low, last, run = self._low, 0, 0
        while True:
            low += 1
            if low in acked:
                acked.remove(low)
                last, run = low, run + 1
            elif low in beyond:
                beyond.remove(low)
            else:
                break
        self._low = low - 1
        frames = [(last, run > 1)] if run else []
        if acked:
            frames += [(tag, False) for tag in sorted(acked)]
            beyond |= acked
            self._acked = set()
        return frames
