"""The operator's commands; nothing else."""

import asyncio
import json
from collections import Counter
from collections.abc import Coroutine
from typing import Annotated, Any, NoReturn

import typer

from responder.discovery import find_predictors
from responder.logs import set_up_logs
from responder.predictor import Predictor
from responder.settings import InvalidSettings, Settings
from responder.signature import InvalidPredictor, problem_with_name
from responder.topology import request_queue

FAILED, USAGE = 1, 2

cli = typer.Typer(
    name="responder",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Answer prediction requests from RabbitMQ, with one model call for identical requests.",
)
Models = Annotated[list[str], typer.Argument(metavar="MODULE:NAME...", help="predictors, e.g. examples.price:price")]
AsJson = Annotated[bool, typer.Option("--json", help="machine-readable output")]


def main() -> None:
    """The console script."""
    cli()


@cli.callback()
def _commands() -> None:
    """Keeps `serve` a command of its own while there are few."""


@cli.command()
def serve(models: Models) -> None:
    """Answer requests until SIGTERM or Ctrl-C, then drain.

    Settings come from AMQP_URL, REDIS_URL and RESPONDER_*; `responder check` shows them.
    """
    predictors, settings = _load(models)
    set_up_logs(settings.log, settings.log_level)
    from responder.running import run  # it takes half a second to import, which `check` and a wrong setting need not

    raise typer.Exit(run(predictors, settings))


@cli.command()
def check(models: Models, as_json: AsJson = False) -> None:  # noqa: FBT002 - a command-line flag
    """Check the settings and the models without serving, and show what is in force."""
    predictors, settings = _load(models)
    facts = {
        "settings": json.loads(settings.model_dump_json()),
        "models": [
            {
                "name": one.name,
                "version": one.version,
                "queue": request_queue(settings.namespace, one.name),
                "ttl_s": one.ttl_s,
                "timeout_s": one.timeout_s,
                "concurrency": one.concurrency,
                "runs": "on the event loop" if one.is_async else "in threads",
                "input": one.input_type.model_json_schema(),
            }
            for one in predictors
        ],
    }
    if as_json:
        typer.echo(json.dumps(facts, indent=2))
        return
    for name, value in facts["settings"].items():
        typer.echo(f"{name:20} {value}")
    for one in predictors:
        typer.echo(
            f"{one.name} {one.version}: queue {request_queue(settings.namespace, one.name)}, ttl {one.ttl_s:g} s"
        )


@cli.command()
def explain(
    model: Annotated[str, typer.Argument(metavar="MODULE:NAME", help="a predictor, e.g. examples.price:price")],
    body: Annotated[str, typer.Argument(metavar="JSON", help="an input, as a request would carry it")],
    tenant: Annotated[str, typer.Option(help="whose answer")] = "",
    cache_control: Annotated[str, typer.Option(help="the request's directives, e.g. max-age=5")] = "",
    as_json: AsJson = False,  # noqa: FBT002 - a command-line flag
) -> None:
    """Show an input's canonical form and key, what is cached of it, who works on it, and what a request would meet."""
    [predictor], settings = _load([model])
    from responder.operate import explained  # see `serve`

    facts = _operate(explained(settings, predictor, body.encode(), tenant.encode(), cache_control))
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
    """Have cached answers given no more: all of a model, one by its key, or all. Flights in the air store nothing."""
    if (model is not None) + (key is not None) + every != 1:
        _wrong_usage("give one of MODEL, --key KEY and --all")
    try:
        settings = Settings.from_environment()
    except InvalidSettings as error:
        _wrong_usage(str(error))
    from responder.operate import invalidated  # see `serve`

    facts = _operate(invalidated(settings, model, key))
    typer.echo(json.dumps(facts, indent=2) if as_json else facts["done"])


@cli.command()
def redrive(
    model: Annotated[str | None, typer.Option(help="only letters to this model")] = None,
    reason: Annotated[str | None, typer.Option(help="only these: rejected, delivery_limit or maxlen")] = None,
    limit: Annotated[int, typer.Option(min=1, max=65_535, help="look at so many at most")] = 1000,
    timeout: Annotated[float, typer.Option(min=0.1, help="seconds for each")] = 30.0,
    impersonate: Annotated[bool, typer.Option("--impersonate", help="ask as each letter's user")] = False,  # noqa: FBT002
    dry_run: Annotated[bool, typer.Option("--dry-run", help="say what would be done")] = False,  # noqa: FBT002
    listed: Annotated[bool, typer.Option("--list", help="only show what is there")] = False,  # noqa: FBT002
    as_json: AsJson = False,  # noqa: FBT002
) -> None:
    """Ask dead letters once more, one at a time, and send the answers to those who had asked.

    What expired is skipped, and what still cannot be answered stays. Exit status 1 when something stayed for that.
    """
    try:
        settings = Settings.from_environment()
    except InvalidSettings as error:
        _wrong_usage(str(error))
    from responder.reaching import NotReached  # see `serve`
    from responder.redrive import Letter, Plan, Redrive

    def told(letter: Letter) -> None:
        if not as_json:
            fate = "" if listed else letter.fate
            typer.echo(f"{letter.model:20} {letter.reason:15} {letter.identifier:40} {fate}".rstrip())

    set_up_logs(None, "ERROR")  # what there is to say of connections is said below
    plan = Plan(model, reason, limit, timeout, dry_run or listed, impersonate)
    run = Redrive(settings, plan, told)
    try:
        counts = asyncio.run(run.run())
    except NotReached as error:
        typer.echo(f"RabbitMQ: {error}", err=True)
        raise typer.Exit(FAILED) from None
    except KeyboardInterrupt:
        typer.echo("interrupted; what was not answered is still there", err=True)
        raise typer.Exit(FAILED) from None
    facts = [
        {"model": one.model, "reason": one.reason, "correlation_id": one.identifier, "fate": one.fate}
        for one in run.letters
    ]
    if as_json:
        typer.echo(json.dumps({"letters": facts, "counts": counts}, indent=2))
    else:
        if listed:
            counts = Counter(one.reason for one in run.letters)
        typer.echo(", ".join(f"{count} {fate}" for fate, count in counts.items()) or "no dead letters")
    if any(one.fate.startswith("kept") for one in run.letters):
        raise typer.Exit(FAILED)


@cli.command()
def declare(
    models: Annotated[list[str], typer.Argument(metavar="MODEL...", help="models' names, e.g. price")],
    as_json: AsJson = False,  # noqa: FBT002 - a command-line flag
) -> None:
    """Declare the queues and exchanges, as a user who may, for responders with RESPONDER_DECLARE=false.

    It needs no model's code, and the settings that the responders have.
    """
    try:
        settings = Settings.from_environment()
    except InvalidSettings as error:
        _wrong_usage(str(error))
    for problem in filter(None, map(problem_with_name, models)):
        _wrong_usage(problem)
    from responder.declaring import declared  # see `serve`
    from responder.reaching import NotReached

    set_up_logs(None, "ERROR")  # what there is to say of connections is said below
    try:
        lines = asyncio.run(declared(settings, models))
    except NotReached as error:
        typer.echo(f"RabbitMQ: {error}", err=True)
        raise typer.Exit(FAILED) from None
    typer.echo(json.dumps({"declared": lines}, indent=2) if as_json else "\n".join(lines))


def _operate(work: Coroutine[Any, Any, dict[str, Any]]) -> dict[str, Any]:
    from responder.operate import CannotOperate

    set_up_logs(None, "ERROR")
    try:
        return asyncio.run(work)
    except ValueError as error:  # an input or a key that is none
        _wrong_usage(str(error))
    except CannotOperate as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(FAILED) from None


def _load(models: list[str]) -> tuple[list[Predictor], Settings]:
    try:
        return find_predictors(models), Settings.from_environment()
    except (InvalidSettings, InvalidPredictor) as error:
        _wrong_usage(str(error))


def _wrong_usage(message: str) -> NoReturn:
    typer.echo(message, err=True)
    raise typer.Exit(USAGE)
