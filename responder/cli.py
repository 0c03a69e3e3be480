"""The operator's commands; nothing else."""

import asyncio
import json
import logging
import os
import signal
import sys
import threading
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from responder.discovery import find_predictors
from responder.execution import THREAD_PREFIX
from responder.logs import logger, set_up_logs
from responder.model import ModelNotLoaded
from responder.predictor import Predictor
from responder.settings import InvalidSettings, Settings
from responder.signature import InvalidPredictor
from responder.topology import request_queue

if TYPE_CHECKING:
    from responder.app import Responder

log = logger(__name__)

OK, FAILED, USAGE = 0, 1, 2

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
    status = _run(predictors, settings)
    if any(thread.name.startswith(THREAD_PREFIX) for thread in threading.enumerate()):
        # A blocking model cannot be stopped, and the interpreter would wait for its thread for ever.
        logging.shutdown()
        os._exit(status)
    raise typer.Exit(status)


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


def _load(models: list[str]) -> tuple[list[Predictor], Settings]:
    try:
        return find_predictors(models), Settings.from_environment()
    except (InvalidSettings, InvalidPredictor) as error:
        _wrong_usage(str(error))


def _wrong_usage(message: str) -> NoReturn:
    typer.echo(message, err=True)
    raise typer.Exit(USAGE)


def _run(predictors: list[Predictor], settings: Settings) -> int:
    if sys.platform == "win32":
        return asyncio.run(_serve(predictors, settings))
    import uvloop

    return uvloop.run(_serve(predictors, settings))


async def _serve(predictors: list[Predictor], settings: Settings) -> int:
    from responder.app import Responder  # it takes half a second to import, which `check` and a wrong setting need not

    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    try:
        async with Responder(predictors, settings) as responder:
            await _announce(responder, predictors, stop)
            await stop.wait()
            log.info("stopping", grace_s=settings.grace_s)
            # The second signal means now: whatever is unfinished goes back to the queue with the connection.
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(number, lambda: sys.exit(FAILED))
            finished = await responder.drain()
    except ModelNotLoaded as error:
        log.error("cannot_serve", problem=str(error), exc_info=error.__cause__)
        return FAILED
    except OSError as error:
        log.error("cannot_serve", problem=f"{type(error).__name__}: {error}")
        return FAILED
    return OK if finished else FAILED


async def _announce(responder: "Responder", predictors: list[Predictor], stop: asyncio.Event) -> None:
    """Say when it is ready, or stop being asked."""
    ready = asyncio.ensure_future(responder.ready())
    stopped = asyncio.ensure_future(stop.wait())
    await asyncio.wait({ready, stopped}, return_when=asyncio.FIRST_COMPLETED)
    if ready.done():
        log.info("ready", models=[one.name for one in predictors], health_port=responder.health_port)
    ready.cancel()
    stopped.cancel()
