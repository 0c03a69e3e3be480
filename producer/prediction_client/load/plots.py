"""The plots of a run."""

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from prediction_client.load.measured import Histogram, Run
from prediction_client.load.report import statuses

COLOURS = {
    "hit": "#2a9d8f",
    "stale": "#8ab17d",
    "collapsed": "#e9b949",
    "miss": "#e76f51",
    "request": "#b5546b",
    "bypass": "#6c757d",
    "none": "#4a6fa5",
    "all": "#264653",
    "failed": "#c1121f",
}
DASHES = ("-", "--", ":")
MOMENTS = 80  # the most points of a timeline
FEW = 1000  # up to this number of answers, the points say more than percentiles do
TICKS = (0, 50, 90, 99, 99.9, 99.99, 99.999)
STYLE: dict[Any, Any] = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#9aa5b1",
    "axes.titlesize": 12,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.grid": True,
    "grid.color": "#e4e7eb",
    "axes.axisbelow": True,
    "legend.frameon": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "load",  # the same results give the same file
}


def colour(status: str) -> str:
    """The colour of a cache status."""
    return COLOURS.get(status, "#7f5539")


def timeline(axes: Axes, runs: Sequence[Run]) -> None:
    """Latencies of the last run by scheduled start, coloured by cache status, with two percentiles of all answers."""
    run = runs[-1]
    for status, _ in statuses(run)[1:]:
        points = [point for cell in run.cells.values() for point in cell.points[status]]
        slowest = [cell.slowest[status] for cell in run.cells.values() if status in cell.slowest]
        x, y = np.array([*points, *slowest]).T
        axes.scatter(
            x,
            y * 1000,
            s=9 if run.answered > FEW else 18,
            alpha=0.55,
            color=colour(status),
            label=status,
            linewidths=0,
            rasterized=True,
        )
    moments = [(at_s, cell.latency_us) for at_s, cell in run.moments(MOMENTS) if cell.answers]
    for percent, style in ((50, "-"), (99, "--")) if run.answered > FEW else ():
        values = [histogram.get_value_at_percentile(percent) / 1000 for _, histogram in moments]
        axes.plot([at_s for at_s, _ in moments], values, style, color=colour("all"), lw=1.1, label=f"p{percent} of all")
    axes.set(
        title=_title("Latency", runs), xlabel="scheduled start of the request, in seconds", ylabel="ms", yscale="log"
    )
    _plain(axes)
    _legend(axes)


def percentile_curve(axes: Axes, runs: Sequence[Run]) -> None:
    """Latency by percentile; on the axis every further nine (90 %, 99 %, 99.9 %) has the same width."""
    for run, dash in zip(runs[::-1], DASHES, strict=False):
        for status, facts in statuses(run):
            if len(runs) > 1 and status not in ("all", "hit", "miss"):
                continue
            label = f"{status} ({run.name})" if len(runs) > 1 else status
            shares = _shares(int(facts["count"]))
            values = [_at(run.by_status()[status], share) for share in shares]
            width = 2.2 if status == "all" else 1.4
            axes.plot(-np.log10(1 - shares), values, dash, lw=width, color=colour(status), label=label)
    axes.set(
        title="Latency by percentile" if len(runs) > 1 else _title("Latency by percentile", runs),
        xlabel="percentile",
        ylabel="ms",
        yscale="log",
    )
    highest = max(axes.get_xlim()[1], 2)
    ticks = [tick for tick in TICKS if -np.log10(1 - tick / 100) <= highest]
    axes.set_xticks([-np.log10(1 - tick / 100) for tick in ticks], [f"{tick:g} %" for tick in ticks])
    _plain(axes)
    _legend(axes)


def rates(axes: Axes, runs: Sequence[Run]) -> None:
    """Requests, answers and failures per second."""
    run = runs[-1]
    moments = run.moments(MOMENTS)
    x, seconds = [at_s for at_s, _ in moments], run.moment_s(MOMENTS)
    asked = [(cell.answers.total() + cell.failures) / seconds for _, cell in moments]
    axes.plot(x, asked, color="#9aa5b1", lw=1.2, label="requests due")
    axes.plot(x, [cell.ended / seconds for _, cell in moments], color=colour("hit"), lw=1.6, label="correct replies")
    if run.failed:
        failed = [cell.failures / seconds for _, cell in moments]
        axes.fill_between(x, failed, color=colour("failed"), alpha=0.6, lw=0, label="failed, by scheduled start")
    axes.set(title=_title("Rate", runs), xlabel="second", ylabel="per second")
    axes.set_ylim(bottom=0)
    _legend(axes)


def shares(axes: Axes, runs: Sequence[Run]) -> None:
    """Answers by cache status, over time."""
    run = runs[-1]
    moments = [(at_s, cell.answers) for at_s, cell in run.moments(MOMENTS) if cell.answers]
    names = [status for status, _ in statuses(run)[1:]]
    x = [at_s for at_s, _ in moments]
    parts = [[100 * answers[status] / answers.total() for _, answers in moments] for status in names]
    if parts:
        axes.stackplot(x, parts, colors=[colour(status) for status in names], labels=names, lw=0)
    axes.set(title=_title("Answers by cache status", runs), xlabel="second", ylabel="% of answers", ylim=(0, 100))
    axes.margins(x=0)
    _legend(axes)


PLOTS: tuple[Callable[[Axes, Sequence[Run]], None], ...] = (timeline, percentile_curve, rates, shares)


def png(runs: Sequence[Run], path: Path, title: str) -> None:
    """Write all plots to one PNG file."""
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(2, 2, figsize=(14, 8.6), layout="constrained")
        for plot, one in zip(PLOTS, axes.flat, strict=True):
            plot(one, runs)
        figure.suptitle(title, fontsize=15)
        figure.savefig(path, dpi=110)
        plt.close(figure)


def svgs(runs: Sequence[Run]) -> list[str]:
    """Each plot as an SVG element for a page."""
    drawn = []
    with plt.rc_context(STYLE):
        for plot in PLOTS:
            figure, axes = plt.subplots(figsize=(9.2, 4.1), layout="constrained")
            plot(axes, runs)
            text = io.StringIO()
            figure.savefig(text, format="svg", dpi=160, metadata={"Date": None})
            plt.close(figure)
            drawn.append(text.getvalue().partition("<svg")[2].join(("<svg", "")))
    return drawn


def _title(title: str, runs: Sequence[Run]) -> str:
    return f"{title}, {runs[-1].name}" if runs[-1].name else title


def _shares(count: int) -> "np.ndarray[tuple[int], np.dtype[np.float64]]":
    nines = np.log10(max(count, 2))
    return 1 - 10 ** -np.linspace(0, nines, 160)


def _at(histogram: Histogram, share: float) -> float:
    return float(histogram.get_value_at_percentile(share * 100)) / 1000


def _legend(axes: Axes) -> None:
    """Put the legend below the plot, where it hides nothing."""
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=5, markerscale=2, columnspacing=1.4)


def _plain(axes: Axes) -> None:
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=12))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
