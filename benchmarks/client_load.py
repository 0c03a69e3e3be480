"""Measure the CPU time of a client library call: `python -m benchmarks.client_load [TOTAL] [IN_FLIGHT]`."""

import asyncio
import json
import os
import sys
import time

import uvloop

from prediction_client import PredictionClient

KEYS = 500
RETURNS = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8]


async def run(total: int, in_flight: int) -> dict[str, float]:
    """Ask `total` times with `in_flight` concurrent calls; return the rate and the CPU time of the process per call."""
    numbers = iter(range(total))

    async def caller(client: PredictionClient) -> None:
        for number in numbers:
            pair = f"C{number % KEYS}/EUR"
            await client.predict("price", {"pair": pair, "horizon_minutes": 5, "returns": RETURNS})

    async with PredictionClient(os.environ["AMQP_URL"]) as client:
        began, cpu = time.perf_counter(), time.process_time()
        await asyncio.gather(*(caller(client) for _ in range(in_flight)))
        cpu, seconds = time.process_time() - cpu, time.perf_counter() - began
    return {"per_second": round(total / seconds, 1), "cpu_us": round(cpu / total * 1e6, 1)}


if __name__ == "__main__":
    words = [int(word) for word in sys.argv[1:]]
    print(json.dumps(uvloop.run(run(*(words + [20_000, 200][len(words) :])))))
