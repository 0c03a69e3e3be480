"""`producer load`: the command line of the load tool."""

import json
import math
import os
import secrets
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.markup import escape

from prediction_client.cli.options import (
    REQUESTS,
    AmqpUrl,
    CacheControl,
    Exchange,
    Namespace,
    ReplyExchange,
    ReplyPrefix,
    Tenant,
    UserId,
)
from prediction_client.options import LOCAL

if TYPE_CHECKING:  # they need the extra `load`, and are slow to import
    from prediction_client.load import Plan, Run

FAILED, USAGE, INTERRUPTED = 1, 2, 130
NO_CACHE = "no-cache, no-store"


def _option(group: str, text: str, *names: str, **more: Any) -> Any:
    return typer.Option(*names, help=text, rich_help_panel=group, **more)


SCHEDULE, INPUTS, RESULTS = "Schedule", "Inputs", "Results"
Rate = Annotated[str | None, _option(SCHEDULE, "requests per second: 2000, or a ramp: 100..2000")]
Spacing = Annotated[str, _option(SCHEDULE, "spacing of the requests: constant, or poisson for independent callers")]
Closed = Annotated[
    int | None,
    _option(SCHEDULE, "instead of --rate: N callers, each of which waits for its answer", min=1, metavar="N"),
]
Think = Annotated[str, _option(SCHEDULE, "with --closed: pause of a caller before its next request")]
Requests = Annotated[int | None, _option(SCHEDULE, "with --closed: total number of requests, instead of --for", min=1)]
For = Annotated[str | None, _option(SCHEDULE, "duration, e.g. 30s or 5m \\[default: 10s]", "--for", show_default=False)]
WarmUp = Annotated[str, _option(SCHEDULE, "duration of the warm-up before that; not counted")]
Keys = Annotated[str, _option(INPUTS, "choice of the next input: uniform, zipf:1.1, distinct, in-turn, file:PATH")]
Count = Annotated[
    int, _option(INPUTS, "number of inputs from --template or --schema", "--inputs", min=1, max=10_000_000)
]
Payloads = Annotated[Path | None, _option(INPUTS, "file of inputs, as JSON Lines")]
TemplateText = Annotated[
    str | None,
    _option(INPUTS, "make inputs from JSON text in which {key} stands for a number", "--template", metavar="JSON"),
]
Schema = Annotated[str | None, _option(INPUTS, "generate inputs for a pydantic model", metavar="MODULE:MODEL")]
Expected = Annotated[
    Path | None, _option(INPUTS, "expected results of --payloads, as JSON Lines; any other result is wrong")
]
Same = Annotated[bool, _option(INPUTS, "count different answers to the same input as wrong", "--same-answers")]
Timeout = Annotated[str, _option(REQUESTS, "timeout of each request")]
Processes = Annotated[int, _option(REQUESTS, "number of processes that send requests", min=1, max=64)]
Seed = Annotated[
    int | None, _option(REQUESTS, "the same seed repeats the same load \\[default: random]", show_default=False)
]
Compare = Annotated[bool, _option(RESULTS, "run the same load without the cache first", "--compare")]
MaxErrors = Annotated[str, _option(RESULTS, "allowed errors, apart from wrong and missing replies: 0, 10 or 0.5%")]
MaxP50 = Annotated[str | None, _option(RESULTS, "exit status 1 if the median latency is higher, e.g. 5ms")]
MaxP95 = Annotated[str | None, _option(RESULTS, "exit status 1 if the 95th percentile is higher")]
MaxP99 = Annotated[str | None, _option(RESULTS, "exit status 1 if the 99th percentile is higher")]
AsJson = Annotated[bool, _option(RESULTS, "print JSON instead of the table", "--json")]
Png = Annotated[Path | None, _option(RESULTS, "write a picture to this file")]
Html = Annotated[Path | None, _option(RESULTS, "write a report for a browser to this file")]


def load(
    model: Annotated[str, typer.Argument(help="the model's name")],
    rate: Rate = None,
    arrivals: Spacing = "constant",
    closed: Closed = None,
    think: Think = "0s",
    requests: Requests = None,
    duration: For = None,
    warm_up: WarmUp = "0s",
    keys: Keys = "uniform",
    inputs: Count = 1000,
    payloads: Payloads = None,
    template: TemplateText = None,
    schema: Schema = None,
    expected: Expected = None,
    same_answers: Same = False,  # noqa: FBT002
    timeout: Timeout = "30s",
    cache_control: CacheControl = None,
    tenant: Tenant = None,
    processes: Processes = 1,
    seed: Seed = None,
    amqp_url: AmqpUrl = LOCAL,
    namespace: Namespace = "",
    exchange: Exchange = "",
    reply_exchange: ReplyExchange = "",
    reply_prefix: ReplyPrefix = "replies.",
    user_id: UserId = None,
    compare: Compare = False,  # noqa: FBT002
    max_errors: MaxErrors = "0",
    max_p50: MaxP50 = None,
    max_p95: MaxP95 = None,
    max_p99: MaxP99 = None,
    as_json: AsJson = False,  # noqa: FBT002
    png: Png = None,
    html: Html = None,
) -> None:
    """Send requests to a model at a given rate, and measure the latency that callers see.

    Exit status 1: a reply was wrong or missing, or a limit was exceeded. 130: Ctrl-C; shows the results so far.

    producer load price --rate 2000 --keys zipf:1.1 --for 30s --template '{"pair": "P{key}/EUR"}'
    """
    try:
        from prediction_client.load import Broker, LoadFailed, Plan, run
        from prediction_client.load.given import arrivals_of, inputs_of, seconds_of
        from prediction_client.load.live import progress
        from prediction_client.load.report import Thresholds
    except ImportError as error:
        _end(USAGE, f"{error.name} is not installed; it comes with: pip install 'prediction-responder[load]'")
    seed = secrets.randbelow(2**32) if seed is None else seed
    try:
        plan = Plan(
            Broker(amqp_url, namespace, exchange, reply_exchange, reply_prefix, user_id),
            model,
            arrivals_of(rate, arrivals, closed, think, requests, duration, warm_up),
            inputs_of(keys, inputs, payloads, template, schema, expected, seed),
            timeout_s=seconds_of("--timeout", timeout, or_none=False),
            cache_control=cache_control,
            tenant=tenant,
            same_answers=same_answers,
            processes=processes,
            seed=seed,
        )
        _check_writable("--png", png)
        _check_writable("--html", html)
        thresholds = Thresholds.parse(max_errors, p50=max_p50, p95=max_p95, p99=max_p99)
    except ValueError as error:
        _end(USAGE, str(error))
    console = Console(stderr=True)
    runs: list[Run] = []
    broken: list[str] = []
    plans = {"with the cache": plan} if compare else {"": plan}
    if compare:
        plans = {"without the cache": replace(plan, cache_control=NO_CACHE)} | plans
    for name, one in plans.items():
        try:
            with progress(console) as tell:
                runs.append(run(one, name, tell))
        except (LoadFailed, KeyboardInterrupt) as error:
            if not runs:
                _end(*((FAILED, str(error)) if isinstance(error, LoadFailed) else (INTERRUPTED, "")))
            broken.append(f"{name}: {error or 'interrupted'}")
            break
        # The run without the cache is only a comparison: it may have any number of typed errors.
        limits = thresholds if one is plan else Thresholds(errors=math.inf)
        broken += [f"{name}: {text}" if name else text for text in limits.broken_by(runs[-1])]
        if runs[-1].is_interrupted:
            break
    _show(runs, broken, console, as_json=as_json)
    _write(runs, broken, console, png, html)
    if runs[-1].is_interrupted:
        raise typer.Exit(INTERRUPTED)
    raise typer.Exit(FAILED if broken else 0)


def _show(runs: "Sequence[Run]", broken: Sequence[str], console: Console, *, as_json: bool) -> None:
    from prediction_client.load import report

    if as_json:
        typer.echo(json.dumps(report.as_json(runs, broken), indent=2))
    else:
        output = Console(width=None if console.is_terminal else 120)
        output.print(report.table(runs))
        for run in runs:
            for name, text in report.lines(run):
                _say(output, escape(f"{run.name + ', ' if run.name else ''}{name}: {text}"))
    for note in dict.fromkeys(text for run in runs for text in report.warnings(run)):
        _say(console, f"[yellow]note[/yellow] {escape(note)}")
    for text in broken:
        _say(console, f"[red]failed[/red] {escape(text)}")


def _say(console: Console, markup: str) -> None:
    console.print(markup, highlight=False, soft_wrap=True)


def _write(runs: "Sequence[Run]", broken: Sequence[str], console: Console, png: Path | None, html: Path | None) -> None:
    if png is None and html is None:
        return
    from prediction_client.load import page, plots

    about = _about(runs[-1].plan)
    writers: list[tuple[str, Path | None, Callable[[Path], None]]] = [
        ("picture", png, lambda path: plots.png(runs, path, about)),
        ("report", html, lambda path: page.write(runs, broken, path, about)),
    ]
    for what, path, write in writers:
        if path is not None:
            try:
                write(path)
            except OSError as error:
                _end(FAILED, f"cannot write {path}: {error.strerror}")
            _say(console, escape(f"{what}: {path}"))


def _check_writable(option: str, path: Path | None) -> None:
    """Check before the run that a file can be written after it. Raises ValueError if not."""
    suffix = f".{option.removeprefix('--')}"
    if path is not None and path.suffix != suffix:
        raise ValueError(f"{option} {path}: the name must end with {suffix}")
    if path is not None and not os.access(path.parent, os.W_OK):
        raise ValueError(f"{option} {path}: its folder does not exist, or cannot be written to")


def _about(plan: "Plan") -> str:
    from prediction_client.load import OpenLoop

    arrivals, inputs = plan.arrivals, plan.inputs
    if isinstance(arrivals, OpenLoop):
        ramp = "" if arrivals.last_rate is None else f" to {arrivals.last_rate:,g}"
        load_text = f"{arrivals.rate:,g}{ramp} requests per second, {arrivals.spacing}"
    else:
        load_text = f"closed loop of {arrivals.in_flight:,}"
    exponent = f" {inputs.popularity.exponent:g}" if inputs.popularity.name == "zipf" else ""
    count = "" if inputs.popularity.name == "distinct" else f" of {inputs.count:,} inputs"
    return f"{plan.model}: {load_text}, {inputs.popularity.name}{exponent}{count}, seed {plan.seed}"


def _end(status: int, text: str) -> NoReturn:
    typer.echo(text, err=True)
    raise typer.Exit(status)
