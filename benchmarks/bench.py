"""The figures of the README, measured beside a C program that only echoes, and beside two peers. `make bench`.

A responder and the floor take turns under one load, so that the machine's mood falls on both. What is bound is ratios,
not rates: the exit status is 1 when one is broken. The figures go to bench.json as well.
"""

import argparse
import asyncio
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import aio_pika
from rich.console import Console
from rich.table import Table

from benchmarks.running import HERE, Load, Program, compiled, peers_environment
from deploy.processes import free_port
from prediction_client.load import Broker, Inputs, OpenLoop, Plan, Popularity, run
from prediction_responder.cache.redis_link import RedisLink

KEYS = 500
TOOL_RATES, TOOL_SECONDS = (2_000, 15_000), 4.0
console = Console(stderr=True)
Row = dict[str, float]

# figure: (what it is, its bound as a ratio, whether larger is better).
# Those of CPU are 20, 28, 150 and 40 us beside the 7 us of a floor that acknowledges each request.
BOUNDS = {
    "cpu": ("CPU per cached answer / the floor's", 2.9, False),
    "cpu_headers": ("the same, deadline and trace on every request", 4.0, False),
    "rate": ("rate of cached answers / the floor's", 0.65, True),
    "p50_alone": ("p50 of one request at a time / the floor's", 1.5, False),
    "cpu_miss": ("CPU per miss, all keys distinct / the floor's", 21.5, False),
    "rate_miss": ("rate of misses with cache and coalescing / without", 0.5, True),
    "cpu_client": ("client library: CPU per call / the floor's", 5.7, False),
    "tool_rate": ("load tool, one process: replies / 15,000 requests a second", 0.98, True),
    "tool_late": ("load tool at 2,000 a second: sent late, p99, in ms", 2.0, False),
    "wake": ("wake-up of a follower in another process, in ms", 2.0, False),
    "hits": ("Redis hits per cached answer", 1.0, True),
    "memory": ("resident memory after the load / after the first answers", 1.10, False),
}


class Bench:
    """One run of the whole table."""

    def __init__(self, amqp_url: str, redis_url: str, folder: Path, *, total: int, turns: int) -> None:
        self._amqp, self._redis = amqp_url, redis_url
        self._floor_program = compiled("floor", folder)
        self.load = Load(compiled("load", folder), amqp_url)
        self._total, self._turns = total, turns
        self.rows: dict[str, Row] = {}
        self.ratios: dict[str, float] = {}

    def in_turns(self, measured: Callable[[], Row], floor: Callable[[], Row]) -> tuple[Row, Row, Row]:
        """Medians of both, taken one after the other so many times, and of their ratios.

        A ratio is of two neighbours in time: what the machine was busy with fell on both.
        """
        pairs = [(measured(), floor()) for _ in range(self._turns)]
        ratios = [
            {name: one[name] / other[name] for name in ("cpu_us", "per_second", "p50_ms")} for one, other in pairs
        ]
        return median([one for one, _ in pairs]), median([other for _, other in pairs]), median(ratios)

    @contextmanager
    def responder(self, namespace: str, **settings: Any) -> Iterator[tuple[Program, str, float]]:
        """A responder with the example model `price`: the program, its queue, and how long it took to be ready."""
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
        """The C program on a queue of its own."""
        with Program.running([self._floor_program, self._amqp, queue, queue_type]) as program:
            self.load.await_answer(queue, program)
            yield program

    def cached(self, queue_type: str) -> None:
        """Cached answers in many ways, on one type of queue."""
        namespace, floor_queue = f"bench{os.getpid()}{queue_type}.", f"bench.floor.{os.getpid()}.{queue_type}"
        with (
            self.responder(namespace, responder_queue_type=queue_type) as (one, queue, ready_s),
            self.floor(floor_queue, queue_type) as floor,
        ):
            self.load(queue, total=max(4000, KEYS * 4), keys=KEYS)
            self.load(floor_queue, total=4000, keys=KEYS)
            at_first_mb, hits = one.resident_mb(), self.redis_hits()
            many = {"total": self._total, "keys": KEYS}
            row, base, ratios = self.in_turns(
                lambda: self.load.weighed(one, queue, **many), lambda: self.load.weighed(floor, floor_queue, **many)
            )
            self.rows[f"cached, {queue_type}"], self.rows[f"floor, {queue_type}"] = row, base
            self.ratio("hits", queue_type, (self.redis_hits() - hits) / (self._turns * self._total))
            self.ratio("cpu", queue_type, ratios["cpu_us"])
            self.ratio("rate", queue_type, ratios["per_second"])
            row = median([self.load.weighed(one, queue, headers=True, **many) for _ in range(self._turns)])
            self.rows[f"cached, with headers, {queue_type}"] = row
            self.ratio("cpu_headers", queue_type, row["cpu_us"] / base["cpu_us"])
            few = {"total": 4000, "keys": KEYS, "window": 1}
            row, alone, ratios = self.in_turns(
                lambda: self.load.weighed(one, queue, **few), lambda: self.load.weighed(floor, floor_queue, **few)
            )
            self.rows[f"one at a time, {queue_type}"], self.rows[f"floor, one at a time, {queue_type}"] = row, alone
            self.ratio("p50_alone", queue_type, ratios["p50_ms"])
            row["resident_mb"], row["ready_s"] = round(one.resident_mb(), 1), round(ready_s, 2)
            self.ratio("memory", queue_type, one.resident_mb() / at_first_mb)

    def misses(self) -> None:
        """Keys that nobody has asked for, and a model that returns at once; then without cache and coalescing."""
        with self.responder(f"bench{os.getpid()}miss.", price_model_seconds=0) as (one, queue, _):
            self.load(queue, total=2000, fresh=True)
            many = {"total": self._total // 2, "fresh": True}
            row, without, ratios = self.in_turns(
                lambda: self.load.weighed(one, queue, **many),
                lambda: self.load.weighed(one, queue, cache_control="no-store", **many),
            )
        self.rows["miss, all distinct"], self.rows["no-store, all distinct"] = row, without
        self.ratio("cpu_miss", "quorum", row["cpu_us"] / self.rows["floor, quorum"]["cpu_us"])
        self.ratio("rate_miss", "quorum", ratios["per_second"])

    def wake(self) -> None:
        """From a leader's commit to its follower's answer, in two processes."""
        command = [sys.executable, "-m", "benchmarks.wake", self._redis, "300"]
        row = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
        self.rows["follower woken"] = row
        self.ratio("wake", "none", row["p50_ms"])

    def client(self) -> None:
        """The client library."""
        command = [sys.executable, "-m", "benchmarks.client_load", str(self._total)]
        with self.responder("") as (_, queue, _ready):
            self.load(queue, total=4000, keys=KEYS)
            rows = [
                json.loads(subprocess.run(command, check=True, capture_output=True).stdout) for _ in range(self._turns)
            ]
        self.rows["client library, per call"] = median(rows)
        self.ratio("cpu_client", "quorum", median(rows)["cpu_us"] / self.rows["floor, quorum"]["cpu_us"])

    def load_tool(self) -> None:
        """One process of `producer load` against the floor, which answers each request with its own body: a result."""
        model = f"bench-floor-{os.getpid()}"
        asked = Inputs.of_template('{"result": {"price": {key}}}', KEYS, Popularity("zipf", 1.1))
        with self.floor(f"predictions.{model}", "classic"):
            for rate in TOOL_RATES:
                schedule = OpenLoop(rate, TOOL_SECONDS, warm_up_s=1)
                ways = [run(Plan(Broker(self._amqp), model, schedule, asked)).summary() for _ in range(self._turns)]
                self.rows[f"load tool, {rate:,} a second"] = median(
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
        slow, fast = (self.rows[f"load tool, {rate:,} a second"] for rate in TOOL_RATES)
        self.ratio("tool_late", "classic", slow["late_p99_ms"])
        self.ratio("tool_rate", "classic", fast["per_second"] / TOOL_RATES[1])

    def peers(self) -> None:
        """Two responders as users write them today."""
        with peers_environment() as python:
            for peer in ("aio_pika_redis", "faststream_redis"):
                queue = f"bench.{peer}.{os.getpid()}"
                script = HERE / "peers" / f"{peer}.py"
                with Program.running([python, script, self._amqp, self._redis, queue, "quorum"]) as program:
                    self.load.await_answer(queue, program)
                    self.load(queue, total=4000, keys=KEYS)
                    rows = [
                        self.load.weighed(program, queue, total=self._total // 5, keys=KEYS) for _ in range(self._turns)
                    ]
                self.rows[f"peer: {peer.replace('_', ' + ', 1) if 'fast' in peer else 'aio-pika + redis'}"] = median(
                    rows
                )

    def ratio(self, name: str, queue_type: str, value: float) -> None:
        """Note a ratio; of two types of queue the worse one stands for both, and both are kept."""
        self.ratios[f"{name}, {queue_type}"] = round(value, 3)

    def redis_hits(self) -> int:
        """How many keys Redis has found."""
        return int(asyncio.run(redis_info(self._redis, "stats"))["keyspace_hits"])

    def broken(self) -> list[str]:
        """The ratios that are beyond their bounds."""
        return [name for name, value in self.ratios.items() if not is_within(name, value)]


def is_within(name: str, value: float) -> bool:
    """Whether a ratio holds its bound."""
    _, bound, is_more_better = BOUNDS[name.partition(",")[0]]
    return value >= bound if is_more_better else value <= bound


def median(rows: list[Row]) -> Row:
    """The median of every column."""
    return {name: statistics.median(row[name] for row in rows) for name in rows[0]}


def is_ready(port: int) -> bool:
    """What the readiness probe says."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


async def redis_info(url: str, section: str) -> dict[str, str]:
    """A section of Redis' INFO."""
    async with RedisLink(url, timeout_s=5.0) as link:
        text: bytes = await link.ask("INFO", section)
    return dict(line.split(":", 1) for line in text.decode().splitlines() if ":" in line)


async def broker_version(url: str) -> str:
    """What the broker says of itself."""
    async with await aio_pika.connect(url) as connection:
        channel = await connection.channel()
        underlay = await channel.get_underlay_channel()
        properties: dict[str, Any] = dict(underlay.connection.server_properties or {})
    return f"{properties.get('product', 'broker')} {properties.get('version', '?')}"


def machine(amqp_url: str, redis_url: str) -> dict[str, str]:
    """What was measured on."""
    cpus = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    model = next((line.partition(":")[2].strip() for line in cpus if line.startswith("model name")), platform.machine())
    libraries = ("aio-pika", "aiormq", "redis", "hiredis", "uvloop", "pydantic")
    return {
        "machine": f"{os.cpu_count()} x {model}",
        "system": platform.platform(),
        "Python": platform.python_version(),
        "broker": asyncio.run(broker_version(amqp_url)),
        "Redis": asyncio.run(redis_info(redis_url, "server"))["redis_version"],
        "libraries": ", ".join(f"{name} {importlib.metadata.version(name)}" for name in libraries),
    }


def show(about: dict[str, str], bench: Bench) -> None:
    """The table and the bounds."""
    for name, text in about.items():
        console.print(f"{name}: {text}", highlight=False)
    table = Table(title="make bench: medians; 200 requests in flight unless it says otherwise", title_justify="left")
    columns = ("cpu_us", "per_second", "p50_ms", "p99_ms")
    for title in ("", "CPU us", "per second", "p50 ms", "p99 ms"):
        table.add_column(title, justify="right" if title else "left")
    for name, row in bench.rows.items():
        table.add_row(name, *(f"{row[column]:,.2f}" if column in row else "" for column in columns))
    console.print(table)
    bounds = Table(title="ratios and their bounds", title_justify="left")
    for title in ("ratio", "queue", "measured", "bound", ""):
        bounds.add_column(title, justify="right" if title in ("measured", "bound") else "left")
    for name, value in bench.ratios.items():
        kind, _, queue_type = name.partition(", ")
        meaning, bound, is_more_better = BOUNDS[kind]
        verdict = "" if is_within(name, value) else "BROKEN"
        bounds.add_row(meaning, queue_type, f"{value:.2f}", f"{'>=' if is_more_better else '<='} {bound:g}", verdict)
    console.print(bounds)


def main() -> None:
    """Measure everything, print it, keep it, and judge it."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--total", type=int, default=20_000, help="requests in each turn (20000)")
    parser.add_argument("--turns", type=int, default=5, help="turns, of which the median counts (5)")
    parser.add_argument("--json", type=Path, default=Path("bench.json"), help="where the figures go (bench.json)")
    parser.add_argument("--no-peers", action="store_true", help="leave the peers out, and their environment")
    given = parser.parse_args()
    amqp_url, redis_url = os.environ["AMQP_URL"], os.environ["REDIS_URL"]
    about = machine(amqp_url, redis_url)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="responder-bench-")))
        bench = Bench(amqp_url, redis_url, folder, total=given.total, turns=given.turns)
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
    show(about, bench)
    kept = {"about": about, "rows": bench.rows, "ratios": bench.ratios, "bounds": BOUNDS}
    given.json.write_text(json.dumps(kept, indent=1) + "\n")
    broken = bench.broken()
    console.print(f"written to {given.json}" + (f"; broken: {', '.join(broken)}" if broken else "; every bound holds"))
    sys.exit(1 if broken else 0)


if __name__ == "__main__":
    main()
