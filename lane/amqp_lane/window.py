"""Which acknowledgements to write: one for a contiguous run of tags, single ones beyond a gap."""

from bisect import bisect_right
from collections.abc import Iterable


class AckWindow:
    """The tags of one epoch. Delivery tags count from 1 on a channel (AMQP 0-9-1 section 1.8.3.13, basic.deliver).

    One slow request never holds the others back: tags beyond it are acknowledged singly, at once, and when it
    is done the run jumps over them. A `multiple` ack always names a tag that is still open, because the
    broker closes a channel on which a settled tag is settled again.

    What is settled beyond a gap is kept as runs, so that it takes room by the number of gaps and not by what was
    answered while one request was slow.
    """

    __slots__ = ("_acked", "_ends", "_low", "_settled_beyond", "_starts", "delivered")

    def __init__(self) -> None:
        self.delivered = 0
        self._low = 0  # every tag up to here is settled and written
        # Settled and written, above a gap: runs from _starts[i] to _ends[i], in order, with a gap after each.
        self._starts: list[int] = []
        self._ends: list[int] = []
        self._settled_beyond = 0
        self._acked: set[int] = set()  # to be acknowledged, not written yet

    def __repr__(self) -> str:
        return f"<AckWindow low={self._low} runs={len(self._starts)} unsettled={self.unsettled}>"

    @property
    def unsettled(self) -> int:
        """How many delivered tags are not settled."""
        return self.delivered - self._low - self._settled_beyond - len(self._acked)

    @property
    def waiting(self) -> int:
        """How many tags the next `take` acknowledges."""
        return len(self._acked)

    def ack(self, tags: Iterable[int]) -> None:
        """Acknowledge tags with the next `take`; a second time is ignored."""
        low = self._low
        if self._starts:
            self._acked.update(tag for tag in tags if tag > low and not self._is_beyond(tag))
        else:
            self._acked.update(tag for tag in tags if tag > low)

    def settle(self, tag: int) -> bool:
        """Note a tag that is settled by a frame of its own; False if it already was."""
        if tag <= self._low or tag in self._acked or self._is_beyond(tag):
            return False
        self._add(tag)
        return True

    def take(self) -> list[tuple[int, bool]]:
        """The acknowledgements to write now, as (tag, multiple)."""
        acked = self._acked
        last, run = 0, 0
        while True:
            if self._starts and self._starts[0] == self._low + 1:
                self._settled_beyond -= self._ends[0] - self._low
                self._low = self._ends.pop(0)
                del self._starts[0]
            elif self._low + 1 in acked:
                self._low += 1
                acked.remove(self._low)
                last, run = self._low, run + 1
            else:
                break
        frames = [(last, run > 1)] if run else []
        for tag in sorted(acked):
            self._add(tag)
            frames.append((tag, False))
        acked.clear()
        return frames

    def _is_beyond(self, tag: int) -> bool:
        index = bisect_right(self._starts, tag) - 1
        return index >= 0 and tag <= self._ends[index]

    def _add(self, tag: int) -> None:
        """Put a tag into the runs, and join what it touches."""
        starts, ends = self._starts, self._ends
        self._settled_beyond += 1
        index = bisect_right(starts, tag)  # of the run after it
        touches_before = index > 0 and ends[index - 1] == tag - 1
        touches_after = index < len(starts) and starts[index] == tag + 1
        if touches_before and touches_after:
            ends[index - 1] = ends[index]
            del starts[index], ends[index]
        elif touches_before:
            ends[index - 1] = tag
        elif touches_after:
            starts[index] = tag
        else:
            starts.insert(index, tag)
            ends.insert(index, tag)
