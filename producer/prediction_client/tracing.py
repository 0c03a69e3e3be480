"""The caller's trace, on its way with the request (W3C Trace Context), where OpenTelemetry is installed."""

from collections.abc import Callable, Mapping

_NOTHING: Mapping[str, str] = {}


def find_trace() -> Callable[[], Mapping[str, str]]:
    """A function that says which headers carry the current trace; none where the extra `otel` is not installed."""
    try:
        from opentelemetry.propagate import inject
        from opentelemetry.trace import INVALID_SPAN, get_current_span
    except ImportError:
        return lambda: _NOTHING

    def trace() -> Mapping[str, str]:
        if get_current_span() is INVALID_SPAN:  # most callers trace nothing, and `inject` is slow in finding that out
            return _NOTHING
        headers: dict[str, str] = {}
        inject(headers)
        return headers

    return trace
