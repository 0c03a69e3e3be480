"""Structured logs: JSON for machines, a console for people. No bodies, no secrets."""

import logging
import re
import sys
from collections.abc import MutableMapping
from io import StringIO
from typing import Any, Literal, TextIO

import structlog


def logger(name: str) -> Any:
    """A logger of key-value events."""
    return structlog.stdlib.get_logger(name)


def printable(text: str) -> str:
    """What a stranger may have put into a name, escaped: no line of theirs, and nothing that a terminal obeys."""
    return text if text.isprintable() else ascii(text)[1:-1]


def _masked(text: str) -> str:
    """Without the passwords of URLs, which stand in other people's error messages."""
    return _USER_INFO.sub("//***@", text)


def _masked_traceback(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    if "exception" in event:
        event["exception"] = _masked(str(event["exception"]))
    return event


def _escaped_traceback(out: TextIO, error: Any) -> None:
    """A traceback whose every line is indented, and as printable as everything else."""
    plain = StringIO()
    structlog.dev.plain_traceback(plain, error)
    out.write("\n".join(f"    {printable(line)}" for line in _masked(plain.getvalue()).split("\n")))


def _printable(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for name, value in event.items():
        if isinstance(value, str):
            event[name] = printable(_masked(value))
    return event


_USER_INFO = re.compile(r"//[^/\s@]+@")


def set_up_logs(style: Literal["console", "json"] | None, level: str) -> None:
    """Send our events and the libraries' log lines to standard error, one line each.

    Args:
        style: None chooses the console on a terminal and JSON elsewhere.
        level: the least severe level that is shown, e.g. `INFO`.
    """
    chosen = style or ("console" if sys.stderr.isatty() else "json")
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _printable,
    ]
    if chosen == "json":
        renderers: list[Any] = [
            structlog.processors.format_exc_info,
            _masked_traceback,
            structlog.processors.JSONRenderer(),
        ]
    else:
        renderers = [
            # The default formatter shows local variables, which hold bodies and secrets.
            structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=_escaped_traceback)
        ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.PositionalArgumentsFormatter(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderers],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level)
    # Their own reports of lost connections repeat, with tracebacks, what the lane says in one line.
    for noisy in ("aio_pika", "aiormq"):
        logging.getLogger(noisy).setLevel(logging.CRITICAL)
