"""Structured logs: JSON for machines, a console for people. No bodies, no secrets."""

import logging
import sys
from collections.abc import MutableMapping
from typing import Any, Literal

import structlog


def logger(name: str) -> Any:
    """A logger of key-value events."""
    return structlog.stdlib.get_logger(name)


def _printable(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Escape what a stranger may have put into a name: no line of theirs, and nothing that a terminal obeys."""
    for name, value in event.items():
        if isinstance(value, str) and not value.isprintable():
            event[name] = ascii(value)[1:-1]
    return event


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
        renderers: list[Any] = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    else:
        renderers = [
            # The default formatter shows local variables, which hold bodies and secrets.
            structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback)
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
