"""The bounds and the tables of `make bench`."""

import asyncio
import importlib.metadata
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import aio_pika
from rich.console import Console
from rich.table import Table

from benchmarks.measures import Row, redis_info

# Ratio: its meaning, its bound, whether larger is better.
# The CPU bounds equal 20, 28, 150 and 40 us, as the floor, which acknowledges each request, takes 7 us.
BOUNDS = {
    "cpu": ("CPU per cached answer / the floor's", 2.9, False),
    "cpu_headers": ("the same, deadline and trace on every request", 4.0, False),
    "rate": ("rate of cached answers / the floor's", 0.65, True),
    "p50_alone": ("p50 of one request at a time / the floor's", 1.5, False),
    "cpu_miss": ("CPU per miss, all keys distinct / the floor's", 21.5, False),
    "rate_miss": ("rate of misses with cache and coalescing / without", 0.5, True),
    "cpu_client": ("client library: CPU per call / the floor's", 5.7, False),
    "tool_rate": ("load tool, one process: replies / requests at 0.35 of the C load's rate", 0.98, True),
    "tool_late": ("load tool at 2,000 a second: sent late, p99 / a bare event loop's + 0.5 ms", 2.5, False),
    "wake": ("wake-up of a follower in another process / a bare message through Redis", 4.0, False),
    "hits": ("Redis hits per cached answer", 1.0, True),
    "memory": ("resident memory after the load / after the first answers", 1.10, False),
}


def is_within(name: str, value: float) -> bool:
    """Whether a ratio is within its bound."""
    _, bound, is_more_better = BOUNDS[name.partition(",")[0]]
    return value >= bound if is_more_better else value <= bound


def list_broken(ratios: Mapping[str, float]) -> list[str]:
    """List the ratios that exceed their bounds."""
    return [name for name, value in ratios.items() if not is_within(name, value)]


async def broker_version(url: str) -> str:
    """The broker's product name and version."""
    async with await aio_pika.connect(url) as connection:
        channel = await connection.channel()
        underlay = await channel.get_underlay_channel()
        properties: dict[str, Any] = dict(underlay.connection.server_properties or {})
    return f"{properties.get('product', 'broker')} {properties.get('version', '?')}"


def machine(amqp_url: str, redis_url: str) -> dict[str, str]:
    """Describe the machine, the servers and the libraries."""
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


def show(console: Console, about: Mapping[str, str], rows: Mapping[str, Row], ratios: Mapping[str, float]) -> None:
    """Print the table of figures and the table of ratios with their bounds."""
    for name, text in about.items():
        console.print(f"{name}: {text}", highlight=False)
    table = Table(title="make bench: medians; 200 requests in flight unless stated otherwise", title_justify="left")
    columns = ("cpu_us", "per_second", "p50_ms", "p99_ms")
    for title in ("", "CPU us", "per second", "p50 ms", "p99 ms"):
        table.add_column(title, justify="right" if title else "left")
    for name, row in rows.items():
        table.add_row(name, *(f"{row[column]:,.2f}" if column in row else "" for column in columns))
    console.print(table)
    bounds = Table(title="ratios and their bounds", title_justify="left")
    for title in ("ratio", "queue", "measured", "bound", ""):
        bounds.add_column(title, justify="right" if title in ("measured", "bound") else "left")
    for name, value in ratios.items():
        kind, _, queue_type = name.partition(", ")
        meaning, bound, is_more_better = BOUNDS[kind]
        verdict = "" if is_within(name, value) else "BROKEN"
        bounds.add_row(meaning, queue_type, f"{value:.2f}", f"{'>=' if is_more_better else '<='} {bound:g}", verdict)
    console.print(bounds)
