"""How slow the machine is now, so that no bound in seconds says more about the machine than about the product.

A bound of this suite was chosen on a quiet machine of a known speed. On a slower or busier one the same work takes
longer in proportion, and so `limit_s * pace.now()` is the bound there. What is measured as a ratio needs none of this.
"""

import time

WORK = 70_000  # turns of the loop below; 2 ms of one core where the bounds of this suite were chosen
WORK_S = 0.002
SAMPLES, BURSTS = 8, 6


def _burst() -> float:
    """Seconds that a fixed piece of work takes, waiting for a core included."""
    began = time.perf_counter()
    total = 0
    for number in range(WORK):
        total += number & 7
    return time.perf_counter() - began


def _sample() -> float:
    """How many times longer than usual a longer piece of work takes; a short one fits between two other processes."""
    began = time.perf_counter()
    for _ in range(BURSTS):
        _burst()
    return (time.perf_counter() - began) / (BURSTS * WORK_S)


class Pace:
    """The pace of a test: made before what is measured, asked after it.

    It is the worst of several looks, because what is measured met the machine at its worst as well.
    """

    def __init__(self) -> None:
        self._worst = max(1.0, *(_sample() for _ in range(SAMPLES // 2)))

    def now(self) -> float:
        """What a bound in seconds is multiplied with; 1 or more."""
        self._worst = max(self._worst, *(_sample() for _ in range(SAMPLES // 2)))
        return self._worst


def cpu_pace() -> float:
    """The same for bounds on processor time, which waiting for a core does not count into: 1 or more."""
    best = float("inf")
    for _ in range(SAMPLES):
        began = time.thread_time()
        _burst()
        best = min(best, time.thread_time() - began)
    return max(1.0, best / WORK_S)
