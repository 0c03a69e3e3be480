"""`producer ask`: one request, one answer."""

import asyncio
import json
import logging
from dataclasses import asdict
from typing import Annotated, Any

import typer

from prediction_client.cli.options import (
    AmqpUrl,
    CacheControl,
    Exchange,
    Namespace,
    ReplyExchange,
    ReplyPrefix,
    Tenant,
    UserId,
)
from prediction_client.client import PredictionClient
from prediction_client.errors import NoBroker, PredictionError
from prediction_client.options import LOCAL
from prediction_client.prediction import Prediction
from prediction_schemas import parse_cache_control

OK, FAILED, USAGE = 0, 1, 2


def ask(
    model: Annotated[str, typer.Argument(help="the model's name")],
    features: Annotated[str, typer.Argument(metavar="JSON", help='the input, e.g. \'{"pair": "ETH/EUR"}\'')],
    timeout: Annotated[float, typer.Option(min=0.001, help="seconds to wait")] = 30.0,
    cache_control: CacheControl = None,
    tenant: Tenant = None,
    namespace: Namespace = "",
    amqp_url: AmqpUrl = LOCAL,
    exchange: Exchange = "",
    reply_exchange: ReplyExchange = "",
    reply_prefix: ReplyPrefix = "replies.",
    user_id: UserId = None,
    as_json: Annotated[bool, typer.Option("--json", help="print the result and its source as JSON")] = False,  # noqa: FBT002
) -> None:
    """Send one request and print the answer; the exit status is 1 if there is none."""
    try:
        value = json.loads(features)
    except ValueError as error:
        typer.echo(f"JSON: not a valid JSON value: {error}", err=True)
        raise typer.Exit(USAGE) from None

    if cache_control is not None and parse_cache_control(cache_control.encode()).malformed:
        typer.echo(f"--cache-control: cannot read {cache_control!r}; write e.g. max-age=5, no-cache", err=True)
        raise typer.Exit(USAGE)

    for noisy in ("amqp_lane", "aiormq"):  # connection errors are printed below
        logging.getLogger(noisy).setLevel(logging.CRITICAL)

    async def call() -> Prediction[Any]:
        async with PredictionClient(
            amqp_url,
            namespace=namespace,
            connect_timeout_s=min(timeout, 10.0),
            exchange=exchange,
            reply_exchange=reply_exchange,
            reply_prefix=reply_prefix,
            user_id=user_id,
        ) as client:
            return await client.ask(model, value, timeout_s=timeout, cache_control=cache_control, tenant=tenant)

    try:
        prediction = asyncio.run(call())
    except PredictionError as error:
        _show_error(error, as_json=as_json)
        raise typer.Exit(FAILED) from None
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    if as_json:
        facts = asdict(prediction) | {"cache_status": prediction.cache_status.encoded.decode()}
        typer.echo(json.dumps(facts))
        return
    typer.echo(json.dumps(prediction.value))
    source = f"{prediction.cache_status.kind}, model {prediction.model}, version {prediction.model_version}"
    typer.echo(f"{source}, {prediction.duration_ms} ms", err=True)


def _show_error(error: PredictionError, *, as_json: bool) -> None:
    if as_json:
        facts: dict[str, Any] = {"code": error.code, "message": error.message, "retryable": error.retryable}
        facts |= {"details": error.details, "model": error.model, "correlation_id": error.correlation_id}
        facts["cache_status"] = error.cache_status.encoded.decode() if error.cache_status else None
        typer.echo(json.dumps({"error": facts}))
        return
    hint = "; AMQP_URL or --amqp-url names the broker" if error.code == NoBroker.code else ""
    typer.echo(f"{error.code}: {error.message}{hint}", err=True)
