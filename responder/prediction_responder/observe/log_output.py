"""The command's log output: one line per event on standard error, as JSON or for a console."""

import logging
import sys
from collections.abc import MutableMapping
from io import StringIO
from typing import Any, Literal, TextIO

import structlog

from prediction_responder.observe.logs import printable, without_passwords

Event = MutableMapping[str, Any]


def _add_fields(_logger: Any, _method: str, event: Event) -> Event:
    """Add the fields of our own events as separate keys."""
    record = event["_record"]
    fields = getattr(record, "fields", None)
    if isinstance(fields, dict):
        event["event"] = record.event
        event.update(fields)
    return event


def _escape_values(_logger: Any, _method: str, event: Event) -> Event:
    for name, value in event.items():
        if isinstance(value, str):
            event[name] = printable(without_passwords(value))
    return event


def _mask_traceback(_logger: Any, _method: str, event: Event) -> Event:
    if "exception" in event:
        event["exception"] = without_passwords(str(event["exception"]))
    return event


def _write_traceback(out: TextIO, error: Any) -> None:
    """Write a traceback with each line indented and escaped. The default formatter shows local variables."""
    plain = StringIO()
    structlog.dev.plain_traceback(plain, error)
    out.write("\n".join(f"    {printable(line)}" for line in without_passwords(plain.getvalue()).split("\n")))


def set_up_logs(style: Literal["console", "json"] | None, level: str) -> None:
    """Send our events and the log lines of libraries to standard error, one line each.

    Args:
        style: None chooses the console on a terminal and JSON elsewhere.
        level: the least severe level that is shown, e.g. `INFO`.
    """
    chosen = style or ("console" if sys.stderr.isatty() else "json")
    if chosen == "json":
        renderers: list[Any] = [
            structlog.processors.format_exc_info,
            _mask_traceback,
            structlog.processors.JSONRenderer(),
        ]
    else:
        renderers = [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=_write_traceback)]
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[
                _add_fields,
                structlog.stdlib.add_logger_name,
                structlog.stdlib.add_log_level,
                structlog.processors.TimeStamper(fmt="iso", utc=True),
                _escape_values,
            ],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderers],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level)
    # They report lost connections with tracebacks; the lane already logs each in one line.
    for noisy in ("aio_pika", "aiormq"):
        logging.getLogger(noisy).setLevel(logging.CRITICAL)
