"""Decides which acknowledgements to write: one for a contiguous run of tags, single ones beyond a gap."""

from bisect import bisect_right
from collections.abc import Iterable


class AckWindow:
    """The tags of one epoch. Delivery tags count from 1 on a channel (AMQP 0-9-1 section 1.8.3.13, basic.deliver).

    A slow request does not delay other requests: tags beyond it are acknowledged singly, at once, and the run
    skips them when the slow request is done. A `multiple` ack always names a tag that is not settled yet, because the
    broker closes a channel on which a tag is settled twice.

    Tags settled beyond a gap are stored as runs, so memory grows with the number of gaps, not with the number of
    answers during a slow request.
    """

    __slots__ = ("_acked", "_ends", "_low", "_settled_beyond", "_starts", "delivered")

    def __init__(self) -> None:
        self.delivered = 0
        self._low = 0  # every tag up to here is settled and written
        # Settled and written, above a gap: runs from _starts[i] to _ends[i], in order, with a gap between neighbours.
        self._starts: list[int] = []
        self._ends: list[int] = []
        self._settled_beyond = 0
        self._acked: set[int] = set()  # to acknowledge, not written yet

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
        """Acknowledge tags with the next `take`; a tag that is already settled is ignored."""
        low = self._low
        if self._starts:
            self._acked.update(tag for tag in tags if tag > low and not self._is_beyond(tag))
        else:
            self._acked.update(tag for tag in tags if tag > low)

    def settle(self, tag: int) -> bool:
        """Record a tag that gets its own frame; False if it was settled already."""
        if tag <= self._low or tag in self._acked or self._is_beyond(tag):
            return False
        self._add(tag)
        return True

    def take(self) -> list[tuple[int, bool]]:
        """Return the acknowledgements to write now, as (tag, multiple)."""
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
        """Add a tag to the runs, and join adjacent runs."""
        starts, ends = self._starts, self._ends
        self._settled_beyond += 1
        index = bisect_right(starts, tag)  # the run after the tag
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
