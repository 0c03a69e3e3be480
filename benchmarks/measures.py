"""The measurements of `make bench`: a responder, a client and a load tool, compared with a C program that only echoes.

That program is the floor: what RabbitMQ and a minimal consumer cost.
"""

import asyncio
import json
import os
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.lateness import lateness_p99_ms
from benchmarks.running import HERE, Load, Program, compile_program, peers_environment
from deploy.processes import free_port
from prediction_client.load import Broker, Inputs, OpenLoop, Plan, Popularity, run
from prediction_responder.cache.redis_link import RedisLink

KEYS = 500
SCHEDULE_RATE, TOOL_SHARE = 2_000, 0.35  # requests per second; the share of the rate of the C load
GATHERED_MS = 0.5  # the load tool writes requests that are due within this time together
Row = dict[str, float]


class Bench:
    """One run of the whole table."""

    def __init__(
        self, amqp_url: str, redis_url: str, folder: Path, *, total: int, turns: int, tool_s: float = 4.0
    ) -> None:
        self._amqp, self._redis, self._tool_s = amqp_url, redis_url, tool_s
        self._floor_program = compile_program("floor", folder)
        self.load = Load(compile_program("load", folder), amqp_url)
        self._total, self._turns = total, turns
        self.rows: dict[str, Row] = {}
        self.ratios: dict[str, float] = {}

    def take_turns(self, measured: Callable[[], Row], floor: Callable[[], Row]) -> tuple[Row, Row, Row]:
        """Measure both alternately, `turns` times; return the medians of each and of their ratios.

        A ratio compares two consecutive measurements, so that other load on the machine affects both.
        """
        pairs = [(measured(), floor()) for _ in range(self._turns)]
        ratios = [
            {name: one[name] / other[name] for name in ("cpu_us", "per_second", "p50_ms")} for one, other in pairs
        ]
        return median([one for one, _ in pairs]), median([other for _, other in pairs]), median(ratios)

    @contextmanager
    def responder(self, namespace: str, **settings: Any) -> Iterator[tuple[Program, str, float]]:
        """Run a responder with the example model `price`; yield the program, its queue and the seconds until ready."""
        port = free_port()
        environment = {
            "PRICE_MODEL_SECONDS": "0.01",
            "PRICE_TTL_SECONDS": "600",
            "RESPONDER_LOG_LEVEL": "WARNING",
            "RESPONDER_NAMESPACE": namespace,
            "RESPONDER_HEALTH_HOST": "127.0.0.1",
            "RESPONDER_HEALTH_PORT": str(port),
        } | {name.upper(): str(value) for name, value in settings.items()}
        began = time.perf_counter()
        command = [sys.executable, "-m", "prediction_responder", "serve", "examples.price:price"]
        with Program.running(command, environment) as program:
            while not is_ready(port):
                if not program.is_alive or time.perf_counter() - began > 30:
                    raise SystemExit("the responder did not become ready")
                time.sleep(0.01)
            ready_s = time.perf_counter() - began
            queue = f"{namespace}predictions.price"
            self.load(queue, total=1)
            yield program, queue, ready_s

    @contextmanager
    def floor(self, queue: str, queue_type: str) -> Iterator[Program]:
        """Run the C program on its own queue."""
        with Program.running([self._floor_program, self._amqp, queue, queue_type]) as program:
            self.load.await_answer(queue, program)
            yield program

    def hits(self, queue_type: str) -> None:
        """Measure cached answers on one type of queue: many in flight, with headers, and one at a time."""
        namespace, floor_queue = f"bench{os.getpid()}{queue_type}.", f"bench.floor.{os.getpid()}.{queue_type}"
        with (
            self.responder(namespace, responder_queue_type=queue_type) as (one, queue, ready_s),
            self.floor(floor_queue, queue_type) as floor,
        ):
            self.load(queue, total=max(4000, KEYS * 4), keys=KEYS)
            self.load(floor_queue, total=4000, keys=KEYS)
            at_first_mb, hits = one.resident_mb(), self.redis_hits()
            many = {"total": self._total, "keys": KEYS}
            row, base, ratios = self.take_turns(
                lambda: self.load.measure_cpu(one, queue, **many),
                lambda: self.load.measure_cpu(floor, floor_queue, **many),
            )
            self.rows[f"cached, {queue_type}"], self.rows[f"floor, {queue_type}"] = row, base
            self.ratio("hits", queue_type, (self.redis_hits() - hits) / (self._turns * self._total))
            self.ratio("cpu", queue_type, ratios["cpu_us"])
            self.ratio("rate", queue_type, ratios["per_second"])
            row = median([self.load.measure_cpu(one, queue, headers=True, **many) for _ in range(self._turns)])
            self.rows[f"cached, with headers, {queue_type}"] = row
            self.ratio("cpu_headers", queue_type, row["cpu_us"] / base["cpu_us"])
            few = {"total": 4000, "keys": KEYS, "window": 1}
            row, alone, ratios = self.take_turns(
                lambda: self.load.measure_cpu(one, queue, **few),
                lambda: self.load.measure_cpu(floor, floor_queue, **few),
            )
            self.rows[f"one at a time, {queue_type}"], self.rows[f"floor, one at a time, {queue_type}"] = row, alone
            self.ratio("p50_alone", queue_type, ratios["p50_ms"])
            row["resident_mb"], row["ready_s"] = round(one.resident_mb(), 1), round(ready_s, 2)
            self.ratio("memory", queue_type, one.resident_mb() / at_first_mb)

    def misses(self) -> None:
        """Measure misses: distinct new keys and a model that returns at once; then without cache and coalescing."""
        with self.responder(f"bench{os.getpid()}miss.", price_model_seconds=0) as (one, queue, _):
            self.load(queue, total=2000, fresh=True)
            many = {"total": self._total // 2, "fresh": True}
            row, without, ratios = self.take_turns(
                lambda: self.load.measure_cpu(one, queue, **many),
                lambda: self.load.measure_cpu(one, queue, cache_control="no-store", **many),
            )
        self.rows["miss, all distinct"], self.rows["no-store, all distinct"] = row, without
        self.ratio("cpu_miss", "quorum", row["cpu_us"] / self.rows["floor, quorum"]["cpu_us"])
        self.ratio("rate_miss", "quorum", ratios["per_second"])

    def wake(self) -> None:
        """Measure the time from a leader's commit to the answer at a follower in another process.

        It is compared with a bare message through Redis.
        """
        row = last_json([sys.executable, "-m", "benchmarks.wake", self._redis, str(min(300, self._total))])
        self.rows["follower woken"] = {name: row[name] for name in ("p50_ms", "p99_ms")}
        self.rows["a bare message through Redis"] = {"p50_ms": row["bare_p50_ms"], "p99_ms": row["bare_p99_ms"]}
        self.ratio("wake", "none", row["p50_ms"] / row["bare_p50_ms"])

    def client(self) -> None:
        """Measure the CPU time of a client library call."""
        command = [sys.executable, "-m", "benchmarks.client_load", str(self._total)]
        with self.responder("") as (_, queue, _ready):
            self.load(queue, total=4000, keys=KEYS)
            rows = [last_json(command) for _ in range(self._turns)]
        self.rows["client library, per call"] = median(rows)
        self.ratio("cpu_client", "quorum", median(rows)["cpu_us"] / self.rows["floor, quorum"]["cpu_us"])

    def load_tool(self) -> None:
        """Measure one process of the load tool against the floor, which echoes each request's body: a valid result.

        It is compared with the rate of the C load on the same floor, and with a bare event loop on the same schedule.
        """
        model = f"bench-floor-{os.getpid()}"
        asked = Inputs.of_template('{"result": {"price": {key}}}', KEYS, Popularity("zipf", 1.1))
        with self.floor(f"predictions.{model}", "classic"):
            c_loads = [self.load(f"predictions.{model}", total=self._total, keys=KEYS) for _ in range(self._turns)]
            c_load = self.rows["C load on the same floor"] = median(c_loads)
            bare_ms = statistics.median(lateness_p99_ms(SCHEDULE_RATE, 1.0) for _ in range(self._turns))
            self.rows["a bare event loop, 2,000 a second"] = {"late_p99_ms": bare_ms}
            slow = self._tool_row(model, asked, SCHEDULE_RATE)
            fast_rate = round(c_load["per_second"] * TOOL_SHARE)
            fast = self._tool_row(model, asked, fast_rate)
        self.ratio("tool_late", "classic", slow["late_p99_ms"] / (bare_ms + GATHERED_MS))
        self.ratio("tool_rate", "classic", fast["per_second"] / fast_rate)

    def _tool_row(self, model: str, asked: Inputs, rate: float) -> Row:
        schedule = OpenLoop(rate, self._tool_s, warm_up_s=min(1.0, self._tool_s))
        ways = [run(Plan(Broker(self._amqp), model, schedule, asked)).summary() for _ in range(self._turns)]
        row = self.rows[f"load tool, {rate:,} a second"] = median(
            [
                {
                    "per_second": facts["goodput_per_s"],
                    "p50_ms": facts["latency"]["all"]["p50_ms"],
                    "p99_ms": facts["latency"]["all"]["p99_ms"],
                    "cpu_us": facts["tool_cpu_share"] / rate * 1e6,
                    "late_p99_ms": facts["behind_schedule"]["p99_ms"],
                }
                for facts in ways
            ]
        )
        return row

    def peers(self) -> None:
        """Measure the peers: two responders as users write them without this package."""
        with peers_environment() as python:
            for peer in ("aio_pika_redis", "faststream_redis"):
                queue = f"bench.{peer}.{os.getpid()}"
                script = HERE / "peers" / f"{peer}.py"
                with Program.running([python, script, self._amqp, self._redis, queue, "quorum"]) as program:
                    self.load.await_answer(queue, program)
                    self.load(queue, total=4000, keys=KEYS)
                    rows = [
                        self.load.measure_cpu(program, queue, total=self._total // 5, keys=KEYS)
                        for _ in range(self._turns)
                    ]
                self.rows[f"peer: {peer.replace('_', ' + ', 1) if 'fast' in peer else 'aio-pika + redis'}"] = median(
                    rows
                )

    def ratio(self, name: str, queue_type: str, value: float) -> None:
        """Record a ratio, for each type of queue separately."""
        self.ratios[f"{name}, {queue_type}"] = round(value, 3)

    def redis_hits(self) -> int:
        """How many look-ups in Redis were hits."""
        return int(asyncio.run(redis_info(self._redis, "stats"))["keyspace_hits"])


def last_json(command: Sequence[str]) -> Row:
    """Run a program; parse the last line that it prints as JSON."""
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    row: Row = json.loads(said.strip().splitlines()[-1])
    return row


def median(rows: list[Row]) -> Row:
    """The median of every column."""
    return {name: statistics.median(row[name] for row in rows) for name in rows[0]}


def is_ready(port: int) -> bool:
    """Whether the readiness probe answers 200."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


async def redis_info(url: str, section: str) -> dict[str, str]:
    """Fetch a section of Redis' INFO."""
    async with RedisLink(url, timeout_s=5.0) as link:
        text: bytes = await link.ask("INFO", section)
    return dict(line.split(":", 1) for line in text.decode().splitlines() if ":" in line)
