"""The clocks of the responder. Nothing else in the package reads one."""

import asyncio
import time
from typing import Protocol


class Clock(Protocol):
    """What time it is."""

    def now_ms(self) -> int:
        """Milliseconds since the Unix epoch: for times that leave the process, such as the age of an answer."""

    def now_s(self) -> float:
        """Seconds on the event loop's clock: for deadlines, timers and durations."""


class SystemClock:
    """The machine's clocks."""

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def now_s(self) -> float:
        return asyncio.get_running_loop().time()


SYSTEM_CLOCK = SystemClock()
