"""Log events: a name and fields, through the standard library's `logging`.

A program that embeds the responder configures logging as it likes: the message reads `drained finished=True`, and the
record carries `event` and `fields` for structured formatters. Only the command configures output
(`observe.log_output`). No event carries a body, a secret, or the local variables of a traceback.
"""

import logging
import re
import sys
from typing import Any

_USER_INFO = re.compile(r"//[^/\s@]+@")


def printable(text: str) -> str:
    """Untrusted text, escaped: it adds no line and holds no control sequence for a terminal."""
    return text if text.isprintable() else ascii(text)[1:-1]


def without_passwords(text: str) -> str:
    """Text without the user and password of URLs, which the error messages of libraries quote."""
    return _USER_INFO.sub("//***@", text)


class EventLogger:
    """Logs events of one module.

    Args:
        name: the logger's name; the module's.
    """

    def __init__(self, name: str) -> None:
        self._log = logging.getLogger(name)

    def debug(self, event: str, **fields: Any) -> None:
        """A detail for debugging."""
        self._emit(logging.DEBUG, event, fields)

    def info(self, event: str, **fields: Any) -> None:
        """A step that an operator may want to see."""
        self._emit(logging.INFO, event, fields)

    def warning(self, event: str, **fields: Any) -> None:
        """A problem with which the responder can go on."""
        self._emit(logging.WARNING, event, fields)

    def error(self, event: str, *, exc_info: BaseException | None = None, **fields: Any) -> None:
        """Something failed; `exc_info` adds the traceback."""
        self._emit(logging.ERROR, event, fields, exc_info)

    def exception(self, event: str, **fields: Any) -> None:
        """`error` with the exception that is being handled."""
        self._emit(logging.ERROR, event, fields, sys.exc_info()[1])

    def _emit(self, level: int, event: str, fields: dict[str, Any], exc_info: BaseException | None = None) -> None:
        if not self._log.isEnabledFor(level):
            return
        shown = {name: _escape(value) for name, value in fields.items()}
        message = " ".join([event, *(f"{name}={value}" for name, value in shown.items())])
        # "%s": no handler may take a percent sign in a field for a format.
        self._log.log(level, "%s", message, exc_info=exc_info, extra={"event": event, "fields": shown}, stacklevel=3)


def _escape(value: Any) -> Any:
    return printable(without_passwords(value)) if isinstance(value, str) else value


def logger(name: str) -> EventLogger:
    """The logger of a module."""
    return EventLogger(name)
