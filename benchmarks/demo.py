"""The seed's experiment for real: the same requests, slow then fast. `make demo`.

It starts a responder with a one-second model and a real classifier, and asks it through the client library:
one after another without and with the cache, a thousand identical at once, and a Zipf load. It ends in a
table and a picture; its exit status is 1 if any reply was wrong or missing.
"""

import argparse
import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from benchmarks.measure import Phase, summary
from benchmarks.picture import draw
from examples.digits import Digits, Image
from examples.price import Features, expected
from producer import Prediction, PredictionClient

MODEL_SECONDS, TTL_SECONDS = 1.0, 5.0
PAIRS = ("BTC/EUR", "ETH/EUR", "ADA/EUR")
PAUSE_S = 0.1
HERD = 1000
ZIPF_EXPONENT, ZIPF_IN_FLIGHT = 1.1, 32
READY_TIMEOUT_S = 60.0

console = Console(stderr=True)


class Responder:
    """A responder process, and what it says of itself."""

    def __init__(self, port: int, process: "subprocess.Popen[bytes]") -> None:
        self._port = port
        self.process = process

    @classmethod
    @contextmanager
    def running(cls) -> Iterator["Responder"]:
        """Start one, wait until it is ready, and drain it at the end."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        environment = os.environ | {
            "PRICE_MODEL_SECONDS": str(MODEL_SECONDS),
            "PRICE_TTL_SECONDS": str(TTL_SECONDS),
            "RESPONDER_HEALTH_HOST": "127.0.0.1",
            "RESPONDER_HEALTH_PORT": str(port),
            "RESPONDER_LOG_LEVEL": "WARNING",
            "RESPONDER_NAMESPACE": f"demo{os.getpid()}.",
        }
        command = [sys.executable, "-m", "responder", "serve", "examples.price:price", "examples.digits:digits"]
        process = subprocess.Popen(command, env=environment, start_new_session=True)
        try:
            one = cls(port, process)
            one.wait_until_ready()
            yield one
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=60)

    def wait_until_ready(self) -> None:
        """Poll the readiness probe; a dead process ends the wait."""
        give_up_at = time.monotonic() + READY_TIMEOUT_S
        while time.monotonic() < give_up_at and self.process.poll() is None:
            try:
                self._get("/readyz")
            except OSError:
                time.sleep(0.05)
            else:
                return
        msg = "the responder did not become ready"
        raise SystemExit(msg)

    def model_calls(self, model: str) -> int:
        """How often the model has run, by the responder's own counter."""
        return sum(
            int(float(line.rsplit(" ", 1)[1]))
            for line in self._get("/metrics").splitlines()
            if line.startswith("responder_model_calls_total{") and f'model="{model}"' in line
        )

    def _get(self, path: str) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self._port}{path}", timeout=5) as response:
            text: str = response.read().decode()
            return text


def progress() -> Progress:
    """A bar with what is left; it shows nothing but the end where there is no terminal."""
    return Progress(
        TextColumn("{task.description:42}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=console
    )


async def one_after_another(
    client: PredictionClient, responder: Responder, name: str, count: int, cache_control: str | None
) -> Phase:
    """The seed's loop. With the cache it pauses between requests, so that the answers' time to live passes."""
    phase, before = Phase(name, len(PAIRS)), responder.model_calls("price")
    with progress() as bar:
        for index in bar.track(range(count), description=name):
            features = Features(pair=PAIRS[index % len(PAIRS)])
            await phase.call(
                client.ask("price", features, cache_control=cache_control, timeout=30),
                lambda prediction, features=features: _is_price(prediction, features),  # type: ignore[misc]
            )
            if cache_control is None:
                await asyncio.sleep(PAUSE_S)
    phase.finish(responder.model_calls("price") - before)
    return phase


async def herd(client: PredictionClient, responder: Responder, count: int) -> Phase:
    """Identical requests, all at once."""
    name = f"{count:,} identical at once"
    console.print(name)
    phase, before = Phase(name, 1), responder.model_calls("price")
    features = Features(pair="HERD/EUR")
    await asyncio.gather(
        *(
            phase.call(client.ask("price", features, timeout=30), lambda prediction: _is_price(prediction, features))
            for _ in range(count)
        )
    )
    phase.finish(responder.model_calls("price") - before)
    return phase


async def zipf(client: PredictionClient, responder: Responder, count: int) -> Phase:
    """Real images, popular ones far more often than others."""
    from sklearn.datasets import load_digits

    images = load_digits().data
    truth = Digits()
    truth.load()
    weights = 1 / np.arange(1, len(images) + 1) ** ZIPF_EXPONENT
    chosen = np.random.default_rng(1).choice(len(images), size=count, p=weights / weights.sum())
    inputs = {index: Image(pixels=images[index].tolist()) for index in set(chosen.tolist())}
    answers = {index: truth.predict(image).model_dump(mode="json") for index, image in inputs.items()}
    phase, before = Phase("Zipf load of digits", len(inputs)), responder.model_calls("digits")
    left = iter(chosen.tolist())
    with progress() as bar:
        task = bar.add_task(phase.name, total=count)

        async def worker() -> None:
            for index in left:
                await phase.call(
                    client.ask("digits", inputs[index], timeout=30),
                    lambda prediction, index=index: prediction.value == answers[index],  # type: ignore[misc]
                )
                bar.advance(task)

        await asyncio.gather(*(worker() for _ in range(ZIPF_IN_FLIGHT)))
    phase.finish(responder.model_calls("digits") - before)
    return phase


def _is_price(prediction: Prediction, features: Features) -> bool:
    return bool(prediction.value == {"price": expected(features)})


def report(phases: list[Phase]) -> Table:
    """The table."""
    table = Table(title="The same requests, slow then fast")
    for heading in ("", "cache", "replies", "mean ms", "p50", "p95", "p99", "model calls", "distinct", "failed"):
        table.add_column(heading, justify="left" if heading in ("", "cache") else "right")
    for phase in phases:
        for status, latencies in phase.latencies().items():
            if not latencies:
                continue
            facts, whole = summary(latencies), status == "all"
            table.add_row(
                phase.name if whole else "",
                status,
                f"{facts['count']:,}",
                *(f"{facts[name]:,.1f}" for name in ("mean_ms", "p50_ms", "p95_ms", "p99_ms")),
                *((str(phase.model_calls), str(phase.distinct), str(phase.failed)) if whole else ("", "", "")),
            )
        table.add_section()
    return table


def as_json(phases: list[Phase]) -> str:
    """The same facts for machines."""
    facts = [
        {
            "phase": phase.name,
            "seconds": round(phase.seconds, 3),
            "model_calls": phase.model_calls,
            "distinct": phase.distinct,
            "wrong": phase.wrong,
            "errors": dict(phase.errors),
            "latency": {status: summary(values) for status, values in phase.latencies().items() if values},
        }
        for phase in phases
    ]
    return json.dumps(facts, indent=2)


async def run(requests: int, zipf_requests: int) -> list[Phase]:
    """Every phase, in order."""
    with Responder.running() as responder:
        url, namespace = os.environ["AMQP_URL"], f"demo{os.getpid()}."
        async with PredictionClient(url, namespace=namespace) as client:
            return [
                await one_after_another(
                    client, responder, "one after another, no cache", requests, "no-cache, no-store"
                ),
                await one_after_another(client, responder, "one after another, with the cache", requests, None),
                await herd(client, responder, HERD),
                await zipf(client, responder, zipf_requests),
            ]


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    parser.add_argument("--requests", type=int, default=100, help="of each one-after-another part")
    parser.add_argument("--zipf-requests", type=int, default=5000)
    parser.add_argument("--png", type=Path, default=Path("demo.png"))
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    options = parser.parse_args()
    if "AMQP_URL" not in os.environ:
        parser.error("AMQP_URL is not set: run it as `make demo`")
    try:
        phases = asyncio.run(run(options.requests, options.zipf_requests))
    except KeyboardInterrupt:
        return 130
    print(as_json(phases)) if options.json else Console(width=max(110, console.width)).print(report(phases))
    draw(phases, options.png)
    console.print(f"picture: {options.png}")
    failed = sum(phase.failed for phase in phases)
    if failed:
        console.print(f"[red]{failed} calls had a wrong reply or none: {[dict(one.errors) for one in phases]}[/red]")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
