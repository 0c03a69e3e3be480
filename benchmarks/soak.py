"""Check that a million answers do not leak memory: `make soak`.

Nine of ten requests repeat keys; one of ten has a new key. The exit status is 1 when a reply is wrong or missing, or
when memory after the last tenth is more than 10 % above memory after the first tenth.
"""

import argparse
import os
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from rich.console import Console

from benchmarks.measures import Bench

PARTS, GROWTH = 10, 1.10
console = Console(stderr=True)


def main() -> None:
    """Run the load, print a line for each tenth, and check the bound."""
    parser = argparse.ArgumentParser(prog="make soak", description=__doc__)
    parser.add_argument("--answers", type=int, default=1_000_000, help="number of answers (1000000)")
    answers = parser.parse_args().answers
    sizes: list[float] = []
    with tempfile.TemporaryDirectory(prefix="responder-soak-") as folder, ExitStack() as stack:
        bench = Bench(os.environ["AMQP_URL"], os.environ["REDIS_URL"], Path(folder), total=0, turns=0)
        load = bench.load
        responder = bench.responder(f"soak{os.getpid()}.", price_model_seconds=0)
        program, queue, _ = stack.enter_context(responder)
        console.print(f"before: {program.resident_mb():.1f} MB", highlight=False)
        for part in range(1, PARTS + 1):
            began = time.perf_counter()
            load(queue, total=answers // PARTS * 9 // 10, keys=5000)
            load(queue, total=answers // PARTS // 10, fresh=True)
            sizes.append(program.resident_mb())
            rate = answers / PARTS / (time.perf_counter() - began)
            console.print(f"{part * answers // PARTS:>10,} answers: {sizes[-1]:.1f} MB, {rate:,.0f}/s", highlight=False)
    ratio = sizes[-1] / sizes[0]
    console.print(f"memory after the last tenth / after the first: {ratio:.3f} (at most {GROWTH:g})", highlight=False)
    sys.exit(0 if ratio <= GROWTH else 1)


if __name__ == "__main__":
    main()
