"""Measure the figures of the documents: `make bench`.

The responder is compared with a floor, a C program that only echoes, and with two peers. The responder and the floor
take turns under the same load, so that a slow phase of the machine affects both. Only ratios within one run have
bounds: the exit status is 1 if a ratio exceeds its bound. The figures are also written to bench.json.
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

from benchmarks.judged import BOUNDS, list_broken, machine, show
from benchmarks.measures import Bench

SHORT_TOTAL = 5_000
console = Console(stderr=True)


def main() -> None:
    """Measure everything, print and save the figures, and check the bounds."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--total", type=int, default=20_000, help="requests in each turn (20000)")
    parser.add_argument("--turns", type=int, default=5, help="turns; the figures are medians over them (5)")
    parser.add_argument(
        "--json", type=Path, default=Path("bench.json"), help="file to write the figures to (bench.json)"
    )
    parser.add_argument("--no-peers", action="store_true", help="skip the peers and their environment")
    parser.add_argument(
        "--short", action="store_true", help="measure every row once, with few requests; check no bounds"
    )
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
            "cached answers, quorum queue": lambda: bench.hits("quorum"),
            "cached answers, classic queue": lambda: bench.hits("classic"),
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
        console.print(f"written to {given.json}; {len(bench.rows)} rows measured, no bounds checked")
        return
    beyond = list_broken(bench.ratios)
    console.print(f"written to {given.json}" + (f"; broken: {', '.join(beyond)}" if beyond else "; every bound holds"))
    sys.exit(1 if beyond else 0)


if __name__ == "__main__":
    main()
