"""The progress line of a run."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.live import Live
from rich.text import Text

from prediction_client.load.measured import Run
from prediction_client.load.worker import SHIP_EVERY_S

SAY_EVERY_S, LATELY_S = 10.0, 2.0
Tell = Callable[[Run, float], None]


@contextmanager
def progress(console: Console) -> Iterator[Tell]:
    """Show progress: a line that is updated on a terminal; elsewhere, one line every ten seconds."""
    if console.is_terminal:
        with Live(console=console, refresh_per_second=5, transient=True) as live:
            yield lambda run, now_s: live.update(Text(line(run, now_s), no_wrap=True, overflow="ellipsis"))
        return
    said_at = time.monotonic()

    def tell(run: Run, now_s: float) -> None:
        nonlocal said_at
        if time.monotonic() - said_at >= SAY_EVERY_S:
            said_at = time.monotonic()
            console.print(line(run, now_s), highlight=False, markup=False, soft_wrap=True)

    yield tell


def line(run: Run, now_s: float) -> str:
    """Time, rate of the last seconds, percentiles, share of hits, requests in flight, failures."""
    planned_s, in_flight = run.plan.arrivals.duration_s, sum(run.in_flight.values())
    name = f"{run.name}: " if run.name else ""
    if now_s < 0:
        return f"{name}warming up, {-now_s:.0f} s left · in flight {in_flight:,}"
    end = max(1, int((now_s - SHIP_EVERY_S) / run.cell_s))  # results of later cells may not have arrived yet
    lately = range(max(0, end - max(1, round(LATELY_S / run.cell_s))), end)
    answers = sum(run.cells[number].ended for number in lately if number in run.cells)
    of = f" of {planned_s:g}" if planned_s else ""
    said = [f"{name}{min(now_s, planned_s or now_s):.0f}{of} s", f"{answers / len(lately) / run.cell_s:,.0f}/s"]
    if run.answered:
        latency = run.all_us
        said += [f"p{percent} {latency.get_value_at_percentile(percent) / 1000:,.1f} ms" for percent in (50, 99)]
        hits = run.latency_us.get("hit")
        said.append(f"hits {(hits.get_total_count() if hits else 0) / run.answered:.0%}")
    return " · ".join([*said, f"in flight {in_flight:,}", f"failed {run.failed:,}"])
