"""The figures of the documents, measured beside a C program that only echoes, and beside two peers. `make bench`.

A responder and the floor take turns under one load, so that a slow moment of the machine falls on both. What is judged
is ratios of the same run: the exit status is 1 when one is beyond its bound. The figures go to bench.json as well.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from rich.console import Console

from benchmarks.judged import BOUNDS, broken, machine, show
from benchmarks.measures import Bench

SHORT_TOTAL = 5_000
console = Console(stderr=True)


def main() -> None:
    """Measure everything, print it, keep it, and judge it."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--total", type=int, default=20_000, help="requests in each turn (20000)")
    parser.add_argument("--turns", type=int, default=5, help="turns, of which the median counts (5)")
    parser.add_argument("--json", type=Path, default=Path("bench.json"), help="where the figures go (bench.json)")
    parser.add_argument("--no-peers", action="store_true", help="leave the peers out, and their environment")
    parser.add_argument("--short", action="store_true", help="make every row once, with few requests; judge nothing")
    given = parser.parse_args()
    if given.short:
        given.total, given.turns = SHORT_TOTAL, 1
    amqp_url, redis_url = os.environ["AMQP_URL"], os.environ["REDIS_URL"]
    about = machine(amqp_url, redis_url)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="responder-bench-")))
        tool_s = 1.0 if given.short else 4.0
        bench = Bench(amqp_url, redis_url, folder, total=given.total, turns=given.turns, tool_s=tool_s)
        steps: dict[str, Callable[[], None]] = {
            "cached answers, quorum queue": lambda: bench.cached("quorum"),
            "cached answers, classic queue": lambda: bench.cached("classic"),
            "misses": bench.misses,
            "wake-up": bench.wake,
            "client library": bench.client,
            "load tool": bench.load_tool,
        }
        if not given.no_peers:
            steps["peers"] = bench.peers
        for name, step in steps.items():
            with console.status(name):
                began = time.perf_counter()
                step()
            console.print(f"{name}: {time.perf_counter() - began:.0f} s", highlight=False)
    show(console, about, bench.rows, bench.ratios)
    kept = {"about": about, "rows": bench.rows, "ratios": bench.ratios, "bounds": BOUNDS}
    given.json.write_text(json.dumps(kept, indent=1) + "\n")
    if given.short:
        console.print(f"written to {given.json}; {len(bench.rows)} rows made, nothing judged")
        return
    beyond = broken(bench.ratios)
    console.print(f"written to {given.json}" + (f"; broken: {', '.join(beyond)}" if beyond else "; every bound holds"))
    sys.exit(1 if beyond else 0)


if __name__ == "__main__":
    main()
