"""Measure how late a bare event loop is on a schedule: `python -m benchmarks.lateness RATE SECONDS [WORK_US]`.

The lateness of the load tool is compared with it: with the same work in each turn, a busy machine delays both. It
prints the 99th percentile in milliseconds.
"""

import asyncio
import subprocess
import sys
import time

from prediction_client.load.worker import precise_loop


async def keep_schedule(rate: float, seconds: float, work_us: float = 0.0) -> float:
    """Run turns on a schedule; return the 99th percentile of their lateness in milliseconds.

    Args:
        rate: turns per second.
        seconds: the duration.
        work_us: CPU time that each turn spends.
    """
    loop = asyncio.get_running_loop()
    began, late_s = loop.time(), []
    for number in range(int(rate * seconds)):
        due = began + number / rate
        await asyncio.sleep(max(0.0, due - loop.time()))
        late_s.append(loop.time() - due)
        busy_until = time.thread_time() + work_us / 1e6
        while time.thread_time() < busy_until:
            pass
    return sorted(late_s)[len(late_s) * 99 // 100] * 1000


def lateness_p99_ms(rate: float, seconds: float, work_us: float = 0.0) -> float:
    """Run `keep_schedule` in a process of its own; it blocks."""
    command = [sys.executable, "-m", "benchmarks.lateness", str(rate), str(seconds), str(work_us)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=precise_loop) as runner:
        print(runner.run(keep_schedule(*map(float, sys.argv[1:]))))
