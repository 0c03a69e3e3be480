"""The report of a run: text and tables, JSON, and the checks that set the exit status."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Table

from prediction_client.load.arrivals import ClosedLoop
from prediction_client.load.given import seconds_of
from prediction_client.load.measured import Run

STATUSES = ("all", "hit", "stale", "collapsed", "miss", "request", "bypass", "none")
BEHIND_MS = 10.0  # beyond this delay, the latencies measure the tool rather than the service


@dataclass(frozen=True)
class Thresholds:
    """The limits that a run must keep.

    Args:
        errors: how many requests may fail with a typed error.
        error_share: the share of all requests that may fail with a typed error.
        latency_s: upper limits of latency percentiles, by name, e.g. `p99`.
    """

    errors: float = 0
    error_share: float = 0.0
    latency_s: tuple[tuple[str, float], ...] = ()

    @classmethod
    def parse(cls, max_errors: str, **latency: str | None) -> "Thresholds":
        """From the command line. Raises ValueError: an option is invalid."""
        number = max_errors.strip().removesuffix("%")
        if not re.fullmatch(r"[0-9]+(\.[0-9]+)?", number) or (number == max_errors.strip() and "." in number):
            msg = f"--max-errors {max_errors}: must be a number or a percentage, e.g. 0 or 0.5%"
            raise ValueError(msg)
        given = tuple((name, seconds_of(f"--max-{name}", text)) for name, text in latency.items() if text is not None)
        is_share = "%" in max_errors
        return cls(0 if is_share else float(number), float(number) / 100 if is_share else 0.0, given)

    def broken_by(self, run: Run) -> list[str]:
        """The limits that a run exceeds, in words. Wrong and missing replies are never allowed."""
        facts = run.summary()
        broken = [
            f"{facts[kind]:,} {text}"
            for kind, text in (("wrong", "replies were wrong"), ("missing", "replies never came"))
            if facts[kind]
        ]
        errors = run.failed - facts["wrong"] - facts["missing"]
        allowed = max(self.errors, self.error_share * facts["requests"])
        if errors > allowed:
            codes = ", ".join(f"{code} {count:,}" for code, count in run.failures.items())
            broken.append(f"{errors:,} errors, at most {allowed:,.0f} allowed (--max-errors): {codes}")
        for name, at_most_s in self.latency_s:
            reached_ms = facts["latency"]["all"].get(f"{name}_ms")
            if reached_ms is not None and reached_ms > at_most_s * 1000:
                broken.append(
                    f"{name} was {_ms(reached_ms)} ms, at most {_ms(at_most_s * 1000)} ms allowed (--max-{name})"
                )
        planned = run.plan.arrivals.requests if isinstance(run.plan.arrivals, ClosedLoop) else None
        if planned is not None and facts["requests"] < planned and not run.is_interrupted:
            broken.append(f"only {facts['requests']:,} of {planned:,} requests were sent: there were no more inputs")
        if not run.answered and not run.is_interrupted:
            broken.append("no request was answered")
        return broken


def warnings(run: Run) -> list[str]:
    """What a reader must know to interpret the results."""
    facts, said = run.summary(), []
    if run.is_closed:
        said.append(
            "closed loop: callers wait for answers, so a stalled service gets fewer requests and its slowest moments "
            "hardly count (coordinated omission). Use --rate to measure what users see"
        )
    if facts["behind_schedule"].get("p99_ms", 0.0) > BEHIND_MS:
        said.append(
            f"requests were sent late, p99 {_ms(facts['behind_schedule']['p99_ms'])} ms: this machine, or one process, "
            "cannot send this load on time. The delay is part of the latencies; lower --rate or raise --processes"
        )
    if facts["errors"].get("NOT_SENT"):
        said.append(
            f"{facts['errors']['NOT_SENT']:,} requests were not sent: too many were in flight, or their timeout "
            "passed before this tool could send them"
        )
    if facts["unfinished"]:
        oldest = _ms(facts["unfinished_after"]["max_ms"])
        count = facts["unfinished"]
        said.append(f"{count:,} requests were unfinished at the end of the run; the oldest had waited {oldest} ms")
    if run.problem is not None:
        said.append(f"problem with a connection to the broker: {run.problem}")
    return said


def table(runs: Sequence[Run]) -> Table:
    """Latency by cache status."""
    shown = Table(title="latency in ms, from the scheduled start of each request", title_justify="left")
    several = len(runs) > 1
    for heading in (*([""] if several else []), "answers", "", "share", "mean", "p50", "p95", "p99", "p99.9", "max"):
        shown.add_column(heading, justify="left" if heading in ("", "answers") and heading == "" else "right")
    for run in runs:
        for status, facts in statuses(run):
            figures = (_ms(facts[f"{name}_ms"]) for name in ("mean", "p50", "p95", "p99", "p99.9", "max"))
            share = facts["count"] / run.answered
            name = [run.name if status == "all" else ""] if several else []
            shown.add_row(*name, f"{facts['count']:,}", status, f"{share:.1%}", *figures)
        shown.add_section()
    return shown


def statuses(run: Run) -> list[tuple[str, dict[str, float]]]:
    """Latencies by cache status, in the order of `STATUSES`."""
    latency = run.summary()["latency"]
    return sorted(
        ((status, facts) for status, facts in latency.items() if facts["count"]),
        key=lambda item: STATUSES.index(item[0]) if item[0] in STATUSES else len(STATUSES),
    )


def lines(run: Run) -> list[tuple[str, str]]:
    """The results that are not in the table."""
    facts = run.summary()
    rate = f"{facts['goodput_per_s']:,.0f} correct replies per second"
    if facts["offered_per_s"] is not None:
        rate += f", of {facts['offered_per_s']:,.0f} requests per second"
    failed = ", ".join(f"{code} {count:,}" for code, count in run.failures.items()) or "none"
    calls = f"{facts['model_calls']:,} for {facts['distinct_inputs']:,} distinct inputs"
    if facts["distinct_inputs"]:
        calls += (
            f" ({facts['model_calls_per_input']:g} per input, at most {facts['most_calls_of_one_input']:,} for one)"
        )
    behind = facts["behind_schedule"]
    said = [("goodput", rate), ("failed", failed), ("model calls, according to the replies", calls)]
    if not run.is_closed and behind["count"]:
        said.append(("sent late", f"p50 {_ms(behind['p50_ms'])} ms, p99 {_ms(behind['p99_ms'])} ms"))
    if run.unawaited:
        said.append(("unexpected replies", f"{run.unawaited:,} (duplicate or late)"))
    return said


def as_json(runs: Sequence[Run], broken: Sequence[str]) -> dict[str, Any]:
    """All results as JSON values."""
    return {"runs": [run.summary() for run in runs], "broken": list(broken), "ok": not broken}


def _ms(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:,.1f}" if value >= 10 else f"{value:.2f}"
