"""The operator's commands. Each reads its arguments and settings, and makes one call."""

import asyncio
import json
from collections import Counter
from collections.abc import Coroutine
from importlib.metadata import version as version_of
from typing import Annotated, Any, NoReturn, TypeVar

import typer

from prediction_responder.extras import DISTRIBUTION, MissingExtra
from prediction_responder.model.discovery import find_predictors
from prediction_responder.model.predictor import AnyPredictor
from prediction_responder.model.signature import InvalidPredictor, problem_with_name
from prediction_responder.observe.log_output import set_up_logs
from prediction_responder.operate.check import check as facts_of
from prediction_responder.settings import InvalidSettings, Settings

FAILED, USAGE = 1, 2
T = TypeVar("T")

cli = typer.Typer(
    name="responder",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Answer prediction requests from RabbitMQ. Identical requests share one model call.",
)
Models = Annotated[list[str], typer.Argument(metavar="MODULE:NAME...", help="predictors, e.g. examples.price:price")]
AsJson = Annotated[bool, typer.Option("--json", help="machine-readable output")]


def run() -> None:
    """Run the command line."""
    try:
        cli()
    except MissingExtra as error:
        typer.echo(f"responder: {error}", err=True)
        raise SystemExit(FAILED) from None


def _show_version(wanted: bool) -> None:  # noqa: FBT001 - a command-line flag
    if wanted:
        typer.echo(f"responder {version_of(DISTRIBUTION)}")
        raise typer.Exit


@cli.callback()
def _commands(
    version: Annotated[  # noqa: FBT002 - a command-line flag
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="show the version and exit")
    ] = False,
) -> None:
    """Options before the command."""


@cli.command()
def serve(models: Models) -> None:
    """Answer requests until SIGTERM or Ctrl-C, then drain.

    Settings come from AMQP_URL, REDIS_URL and RESPONDER_*; `responder check` shows them.
    """
    predictors, settings = _load(models)
    set_up_logs(settings.log, settings.log_level)
    from prediction_responder.serve import run as serve_until_stopped  # half a second that only `serve` needs

    raise typer.Exit(serve_until_stopped(predictors, settings))


@cli.command()
def check(models: Models, as_json: AsJson = False) -> None:  # noqa: FBT002 - a command-line flag
    """Check the settings and the models without serving, and show the values in force."""
    predictors, settings = _load(models)
    facts = facts_of(predictors, settings)
    if as_json:
        typer.echo(json.dumps(facts, indent=2))
        return
    for name, value in facts["settings"].items():
        typer.echo(f"{name:20} {value}")
    for one in facts["models"]:
        typer.echo(f"{one['name']} {one['version']}: queue {one['queue']}, ttl {one['ttl_s']:g} s")


@cli.command()
def explain(
    model: Annotated[str, typer.Argument(metavar="MODULE:NAME", help="a predictor, e.g. examples.price:price")],
    body: Annotated[str, typer.Argument(metavar="JSON", help="an input, as in the body of a request")],
    tenant: Annotated[str, typer.Option(help="the tenant of the request")] = "",
    cache_control: Annotated[str, typer.Option(help="the request's directives, e.g. max-age=5")] = "",
    as_json: AsJson = False,  # noqa: FBT002 - a command-line flag
) -> None:
    """Show an input's key, what is cached for it, which replica leads, and how a request would be answered."""
    [predictor], settings = _load([model])
    from prediction_responder.operate.commands import explain_input

    facts = _operate(explain_input(settings, predictor, body.encode(), tenant.encode(), cache_control))
    if as_json:
        typer.echo(json.dumps(facts, indent=2))
        return
    for name, value in facts.items():
        if value not in (None, {}):
            typer.echo(f"{name:12} {value}")


@cli.command()
def invalidate(
    model: Annotated[str | None, typer.Argument(metavar="MODEL", help="a model's name, e.g. price")] = None,
    key: Annotated[str | None, typer.Option(help="one answer's key, as `explain` prints it")] = None,
    every: Annotated[bool, typer.Option("--all", help="every model of the namespace")] = False,  # noqa: FBT002
    as_json: AsJson = False,  # noqa: FBT002
) -> None:
    """Invalidate cached answers: of one model, of one key, or all. Calls in progress are not cached."""
    if (model is not None) + (key is not None) + every != 1:
        _wrong_usage("give one of MODEL, --key KEY and --all")
    from prediction_responder.operate.commands import invalidate as invalidate_answers

    facts = _operate(invalidate_answers(_settings(), model, key))
    typer.echo(json.dumps(facts, indent=2) if as_json else facts["done"])


@cli.command()
def replicas(
    wait: Annotated[float, typer.Option(min=0.05, help="seconds to wait for replicas that do not answer")] = 1.0,
    as_json: AsJson = False,  # noqa: FBT002
) -> None:
    """List the running replicas: what they serve, and what is wrong. The exit status is 1 if there is none."""
    from prediction_responder.operate.commands import list_replicas

    facts = _operate(list_replicas(_settings(), wait))
    found = facts["replicas"]
    if as_json:
        typer.echo(json.dumps(facts, indent=2))
    for one in found if not as_json else ():
        models = ", ".join(f"{name} {number}" for name, number in one["models"].items()) or "no model"
        state = "; ".join([*one["missing"], *one["degraded"]]) or "ready"
        typer.echo(f"{one['replica']} {one['host']}:{one['pid']} {one['version']} {models}: {state}")
    if not found:
        typer.echo("no replica answered", err=True)
        raise typer.Exit(FAILED)


@cli.command()
def redrive(
    model: Annotated[str | None, typer.Option(help="only dead letters of this model")] = None,
    reason: Annotated[str | None, typer.Option(help="only this death reason: rejected, delivery_limit, maxlen")] = None,
    limit: Annotated[int, typer.Option(min=1, max=65_535, help="maximum number of letters to read")] = 1000,
    timeout: Annotated[float, typer.Option(min=0.1, help="seconds to wait for each reply")] = 30.0,
    impersonate: Annotated[bool, typer.Option("--impersonate", help="send as each letter's user")] = False,  # noqa: FBT002
    dry_run: Annotated[bool, typer.Option("--dry-run", help="show the plan, send nothing")] = False,  # noqa: FBT002
    listed: Annotated[bool, typer.Option("--list", help="list letters, send nothing")] = False,  # noqa: FBT002
    as_json: AsJson = False,  # noqa: FBT002
) -> None:
    """Send dead letters again, one at a time, and forward the answers to the original callers.

    Expired letters are skipped. Letters that fail again stay in the queue, and the exit status is then 1.
    """
    settings = _settings()
    from prediction_responder.amqp.dead_letters import Letter
    from prediction_responder.operate.redrive import Plan, Redrive

    def show(letter: Letter) -> None:
        if not as_json:
            fate = "" if listed else letter.fate
            typer.echo(f"{letter.model:20} {letter.reason:15} {letter.identifier:40} {fate}".rstrip())

    plan = Plan(model, reason, limit, timeout, dry_run or listed, impersonate)
    one = Redrive(settings, plan, show)
    try:
        counts = _reach(one.run())
    except KeyboardInterrupt:
        typer.echo("interrupted; unanswered letters are still in the queue", err=True)
        raise typer.Exit(FAILED) from None
    if as_json:
        facts = [
            {"model": each.model, "reason": each.reason, "correlation_id": each.identifier, "fate": each.fate}
            for each in one.letters
        ]
        typer.echo(json.dumps({"letters": facts, "counts": counts}, indent=2))
    else:
        if listed:
            counts = Counter(letter.reason for letter in one.letters)
        typer.echo(", ".join(f"{count} {fate}" for fate, count in counts.items()) or "no dead letters")
    if any(letter.fate.startswith("kept") for letter in one.letters):
        raise typer.Exit(FAILED)


@cli.command()
def declare(
    models: Annotated[list[str], typer.Argument(metavar="MODEL...", help="models' names, e.g. price")],
    as_json: AsJson = False,  # noqa: FBT002 - a command-line flag
) -> None:
    """Declare queues and exchanges, as a user with that permission, for responders with RESPONDER_DECLARE=false.

    The code of the models is not needed. Use the same settings as the responders.
    """
    settings = _settings()
    for problem in filter(None, map(problem_with_name, models)):
        _wrong_usage(problem)
    from prediction_responder.operate.declare import declare as declare_all

    lines = _reach(declare_all(settings, models))
    typer.echo(json.dumps({"declared": lines}, indent=2) if as_json else "\n".join(lines))


def _reach(work: Coroutine[Any, Any, T]) -> T:
    """Run work that needs the broker."""
    from prediction_responder.amqp.connect import NotReached

    set_up_logs(None, "ERROR")  # connection problems are reported below, in one line
    try:
        return asyncio.run(work)
    except NotReached as error:
        typer.echo(f"RabbitMQ: {error}", err=True)
        raise typer.Exit(FAILED) from None


def _operate(work: Coroutine[Any, Any, dict[str, Any]]) -> dict[str, Any]:
    """Run work that needs Redis."""
    from prediction_responder.operate.commands import CannotOperate

    set_up_logs(None, "ERROR")
    try:
        return asyncio.run(work)
    except ValueError as error:  # an invalid input or key
        _wrong_usage(str(error))
    except CannotOperate as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(FAILED) from None


def _settings() -> Settings:
    try:
        return Settings.from_environment()
    except InvalidSettings as error:
        _wrong_usage(str(error))


def _load(models: list[str]) -> tuple[list[AnyPredictor], Settings]:
    try:
        return find_predictors(models), _settings()
    except InvalidPredictor as error:
        _wrong_usage(str(error))


def _wrong_usage(message: str) -> NoReturn:
    typer.echo(message, err=True)
    raise typer.Exit(USAGE)
