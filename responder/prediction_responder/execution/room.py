"""The permits of one model, and the calls that wait for one."""

import asyncio


class WaitingRoom:
    """Admits calls, first in first out. One permit covers one call, of one input or of many.

    Args:
        permits: how many calls may run at once.
    """

    def __init__(self, permits: int) -> None:
        self._permits = asyncio.Semaphore(permits)
        self._waiting = 0

    def __len__(self) -> int:
        """How many calls wait."""
        return self._waiting

    @property
    def is_busy(self) -> bool:
        """Whether a call would have to wait. If not, `enter` takes a permit before its first suspension."""
        return self._permits.locked()

    async def enter(self) -> None:
        """Wait for a permit. A cancelled wait takes none."""
        if not self._permits.locked():
            await self._permits.acquire()
            return
        self._waiting += 1
        try:
            await self._permits.acquire()
        finally:
            self._waiting -= 1

    def leave(self) -> None:
        """Return a permit, once the model no longer runs for the call."""
        self._permits.release()
