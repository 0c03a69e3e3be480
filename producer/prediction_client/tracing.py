"""The caller's trace, sent with the request (W3C Trace Context) if OpenTelemetry is installed."""

from collections.abc import Callable, Mapping

_NOTHING: Mapping[str, str] = {}


def find_trace() -> Callable[[], Mapping[str, str]]:
    """Return a function that returns the headers of the current trace; none if the extra `otel` is not installed."""
    try:
        from opentelemetry.propagate import inject
        from opentelemetry.trace import INVALID_SPAN, get_current_span
    except ImportError:
        return lambda: _NOTHING

    def trace() -> Mapping[str, str]:
        if get_current_span() is INVALID_SPAN:  # most callers do not trace, and `inject` is slow to find that out
            return _NOTHING
        headers: dict[str, str] = {}
        inject(headers)
        return headers

    return trace
