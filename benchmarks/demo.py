"""The same requests without and with the cache: `make demo`.

It starts a responder with a one-second model and a real classifier, and sends requests with the load tool: one after
another without and with the cache, a thousand identical ones at once, and a Zipf load. It prints a table and draws a
picture. The exit status is 1 if any reply was wrong or missing.
"""

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from rich.console import Console

from examples.digits import Digits, Image
from examples.price import Features, expected
from prediction_client.load import Broker, ClosedLoop, Inputs, OpenLoop, Plan, Popularity, Run, report, run
from prediction_client.load.live import progress
from prediction_client.load.plots import STYLE, percentile_curve, timeline

MODEL_SECONDS, TTL_SECONDS = 1.0, 5.0
PAIRS = ("BTC/EUR", "ETH/EUR", "ADA/EUR")
PAUSE_S = 0.1
HERD = 1000
ZIPF, ZIPF_RATE = Popularity("zipf", 1.1), 500.0
READY_TIMEOUT_S = 60.0
SETTLE_S = 0.2
IN_TURN, NO_CACHE = Popularity("in-turn"), "no-cache, no-store"

console = Console(stderr=True)


class Responder:
    """A responder process and its metrics."""

    def __init__(self, port: int, process: "subprocess.Popen[bytes]") -> None:
        self._port = port
        self.process = process

    @classmethod
    @contextmanager
    def running(cls, namespace: str) -> Iterator["Responder"]:
        """Start a responder, wait until it is ready, and drain it at the end."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        environment = os.environ | {
            "PRICE_MODEL_SECONDS": str(MODEL_SECONDS),
            "PRICE_TTL_SECONDS": str(TTL_SECONDS),
            "RESPONDER_HEALTH_HOST": "127.0.0.1",
            "RESPONDER_HEALTH_PORT": str(port),
            "RESPONDER_LOG_LEVEL": "WARNING",
            "RESPONDER_NAMESPACE": namespace,
        }
        command = [
            sys.executable,
            "-m",
            "prediction_responder",
            "serve",
            "examples.price:price",
            "examples.digits:digits",
        ]
        process = subprocess.Popen(command, env=environment, start_new_session=True)
        try:
            one = cls(port, process)
            one.wait_until_ready()
            yield one
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=60)

    def wait_until_ready(self) -> None:
        """Poll the readiness probe.

        Raises:
            SystemExit: the process ended, or is not ready in time.
        """
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

    def model_calls(self) -> int:
        """How often models have run, from the responder's metrics."""
        return sum(
            int(float(line.rsplit(" ", 1)[1]))
            for line in self._get("/metrics").splitlines()
            if line.startswith("responder_model_calls_total{")
        )

    def _get(self, path: str) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self._port}{path}", timeout=5) as response:
            text: str = response.read().decode()
            return text


def prices(pairs: Sequence[str], popularity: Popularity) -> Inputs:
    """Inputs of the one-second model, and the correct answers."""
    asked = [Features(pair=pair) for pair in pairs]
    return Inputs.listed(asked, popularity, [{"price": expected(features)} for features in asked])


def digits() -> Inputs:
    """Real images with a Zipf popularity, and the classifier's answer to each."""
    from sklearn.datasets import load_digits

    truth = Digits()
    truth.load()
    images = [Image(pixels=pixels.tolist()) for pixels in load_digits().data]
    return Inputs.listed(images, ZIPF, [truth.predict(image).model_dump(mode="json") for image in images])


def plans(broker: Broker, slow_requests: int, requests: int, zipf_requests: int) -> dict[str, Plan]:
    """The parts of the demo by name. The second one pauses between requests, so that cached answers pass their TTL."""
    slow = ClosedLoop(1, requests=slow_requests)
    fast = ClosedLoop(1, requests=requests, think_s=PAUSE_S)
    herd = ClosedLoop(HERD, requests=HERD)
    zipf = OpenLoop(ZIPF_RATE, zipf_requests / ZIPF_RATE, spacing="poisson")
    return {
        "one after another, no cache": Plan(broker, "price", slow, prices(PAIRS, IN_TURN), cache_control=NO_CACHE),
        "one after another, with the cache": Plan(broker, "price", fast, prices(PAIRS, IN_TURN)),
        f"{HERD:,} identical at once": Plan(broker, "price", herd, prices(["HERD/EUR"], IN_TURN)),
        f"digits, Zipf, {ZIPF_RATE:g} a second": Plan(broker, "digits", zipf, digits()),
    }


def measure(slow_requests: int, requests: int, zipf_requests: int) -> tuple[list[Run], list[int], list[str]]:
    """Run every part in order; return the runs, the responder's count of model calls in each, and the failures."""
    namespace = f"demo{os.getpid()}."
    broker = Broker(os.environ["AMQP_URL"], namespace)
    runs, calls, broken = list[Run](), list[int](), list[str]()
    with Responder.running(namespace) as responder:
        for name, plan in plans(broker, slow_requests, requests, zipf_requests).items():
            before = responder.model_calls()
            with progress(console) as tell:
                runs.append(run(plan, name, tell))
            if runs[-1].is_interrupted:
                raise KeyboardInterrupt
            broken += [f"{name}: {text}" for text in report.Thresholds().broken_by(runs[-1])]
            time.sleep(MODEL_SECONDS + SETTLE_S)  # let a last refresh end, so that it is counted in this part
            calls.append(responder.model_calls() - before)
            console.print(figures(runs[-1], calls[-1]), highlight=False, soft_wrap=True)
            if calls[-1] < runs[-1].model_calls:
                broken.append(f"{name}: {runs[-1].model_calls} replies came from model calls, but only {calls[-1]} ran")
    return runs, calls, broken


def figures(run: Run, calls: int) -> str:
    """The figures of one part in one line."""
    latency = run.summary()["latency"]["all"]
    shown = ", ".join(f"{name} {latency[f'{name}_ms']:,.1f} ms" for name in ("mean", "p50", "p99"))
    return f"{run.name}: {run.answered:,} answers, {calls:,} model call{'s' * (calls != 1)}, {shown}"


def draw(runs: Sequence[Run], calls: Sequence[int], path: Path) -> None:
    """Draw latency over time without and with the cache, requests and model calls, and Zipf latency by percentile."""
    with plt.rc_context(STYLE):
        figure, ((slow, fast), (bars, curve)) = plt.subplots(2, 2, figsize=(14, 8.6), layout="constrained")
        timeline(slow, runs[:1])
        timeline(fast, runs[1:2])
        _model_calls(bars, runs, calls)
        percentile_curve(curve, runs[3:])
        slow.sharey(fast)
        figure.suptitle("The same requests, slow then fast", fontsize=15)
        figure.savefig(path, dpi=110)
        plt.close(figure)


def _model_calls(axes: Axes, runs: Sequence[Run], made: Sequence[int]) -> None:
    positions = range(len(runs))
    asked = [one.answered + one.failed for one in runs]
    for offset, values, colour, label in ((-0.2, asked, "#9aa5b1", "requests"), (0.2, made, "#e76f51", "model calls")):
        bars = axes.bar([at + offset for at in positions], values, 0.4, color=colour, label=label)
        axes.bar_label(bars, fmt="{:,.0f}", fontsize=9)
    axes.set(title="Requests and model calls", yscale="log")
    axes.set_xticks(positions, [one.name.replace(", ", "\n") for one in runs], fontsize=9)
    axes.margins(y=0.15)
    axes.legend()


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    parser.add_argument(
        "--slow-requests", type=int, default=20, help="requests one after another without the cache, a second each (20)"
    )
    parser.add_argument("--requests", type=int, default=100, help="requests one after another with the cache (100)")
    parser.add_argument("--zipf-requests", type=int, default=5000, help="requests of the Zipf load (5000)")
    parser.add_argument("--png", type=Path, default=Path("demo.png"), help="file to draw the picture to (demo.png)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    options = parser.parse_args()
    if "AMQP_URL" not in os.environ:
        parser.error("AMQP_URL is not set: use `make demo`")
    try:
        runs, calls, broken = measure(options.slow_requests, options.requests, options.zipf_requests)
    except KeyboardInterrupt:
        return 130
    if options.json:
        print(json.dumps(report.as_json(runs, broken), indent=2))
    else:
        output = Console(width=max(120, console.width))
        output.print(report.table(runs))
        for one, made in zip(runs, calls, strict=True):
            inputs = one.summary()["distinct_inputs"]
            unseen = (
                f" ({made - one.model_calls} of the calls are refreshes in the background)"
                if made > one.model_calls
                else ""
            )
            output.print(f"{one.name}: model calls {made:,}, distinct inputs {inputs:,}{unseen}", highlight=False)
    for text in broken:
        console.print(text, style="red", markup=False)
    console.print("drawing the picture", highlight=False)
    draw(runs, calls, options.png)
    console.print(f"picture: {options.png}", markup=False)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
