"""The demo's picture."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from benchmarks.measure import Phase

COLOURS = {"hit": "#2a9d8f", "miss": "#e76f51", "bypass": "#6c757d", "collapsed": "#e9c46a", "stale": "#8ab17d"}


def draw(phases: Sequence[Phase], path: Path) -> None:
    """Draw the demo's four parts: slow, fast, the herd and the Zipf load."""
    slow, fast, herd, zipf = phases
    figure, ((timeline, calls), (herd_axes, curve)) = plt.subplots(2, 2, figsize=(12, 8), layout="constrained")
    _timeline(timeline, slow, fast)
    _model_calls(calls, phases)
    _herd(herd_axes, herd)
    _percentiles(curve, zipf)
    figure.suptitle("The same requests, slow then fast", fontsize=15)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _timeline(axes: Axes, slow: Phase, fast: Phase) -> None:
    for phase in (slow, fast):
        for status in sorted({call.status for call in phase.calls}):
            points = [(index, call.took_s * 1000) for index, call in enumerate(phase.calls) if call.status == status]
            x, y = zip(*points, strict=True)
            label = "no cache" if phase is slow else f"with the cache: {status}"
            axes.scatter(x, y, s=14, color=COLOURS.get(status, "black"), label=label)
    axes.set(title="One after another", xlabel="request", ylabel="latency, ms", yscale="log")
    axes.legend(loc="center right")
    axes.grid(alpha=0.3)


def _model_calls(axes: Axes, phases: Sequence[Phase]) -> None:
    names = [
        phase.name.replace(", ", ",\n").replace(" of ", "\nof ").replace(" identical", "\nidentical")
        for phase in phases
    ]
    asked = [len(phase.calls) + phase.failed for phase in phases]
    made = [phase.model_calls for phase in phases]
    positions = np.arange(len(phases))
    for offset, values, colour, label in ((-0.2, asked, "#adb5bd", "requests"), (0.2, made, "#e76f51", "model calls")):
        bars = axes.bar(positions + offset, values, 0.4, color=colour, label=label)
        axes.bar_label(bars, fmt="{:,.0f}", fontsize=9)
    axes.set(title="Requests and model calls", yscale="log", xticks=positions)
    axes.set_xticklabels(names, fontsize=9)
    axes.margins(y=0.15)
    axes.legend()


def _herd(axes: Axes, phase: Phase) -> None:
    for status in sorted({call.status for call in phase.calls}):
        latencies = [value * 1000 for value in phase.of_status(status)]
        axes.hist(latencies, bins=40, color=COLOURS.get(status, "black"), label=f"{status} ({len(latencies):,})")
    axes.set(title=phase.name, xlabel="latency, ms", ylabel="replies", yscale="log")
    axes.legend()
    axes.grid(alpha=0.3)


def _percentiles(axes: Axes, phase: Phase) -> None:
    shares = np.linspace(0, 99.9, 400)
    for status, latencies in phase.latencies().items():
        if status != "all" and latencies:
            values = np.percentile(np.array(latencies) * 1000, shares)
            axes.plot(shares, values, color=COLOURS.get(status, "black"), label=f"{status} ({len(latencies):,})")
    axes.set(title=phase.name, xlabel="percentile", ylabel="latency, ms", yscale="log")
    axes.legend()
    axes.grid(alpha=0.3)
