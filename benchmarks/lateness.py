"""How late a process that only keeps a schedule is, on this machine, now: `python -m benchmarks.lateness RATE SECONDS`.

It is what the lateness of the load tool is compared with. It prints the 99th percentile in milliseconds.
"""

import asyncio
import subprocess
import sys

from prediction_client.load.worker import precise_loop


async def keep_schedule(rate: float, seconds: float) -> float:
    """Milliseconds, at the 99th percentile."""
    loop = asyncio.get_running_loop()
    began, late_s = loop.time(), []
    for number in range(int(rate * seconds)):
        due = began + number / rate
        await asyncio.sleep(max(0.0, due - loop.time()))
        late_s.append(loop.time() - due)
    return sorted(late_s)[len(late_s) * 99 // 100] * 1000


def lateness_p99_ms(rate: float, seconds: float) -> float:
    """The same, of a process of its own; it blocks."""
    command = [sys.executable, "-m", "benchmarks.lateness", str(rate), str(seconds)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=precise_loop) as runner:
        print(runner.run(keep_schedule(*map(float, sys.argv[1:]))))
