"""How the service calls a model, wherever the model runs."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol


class ModelTimeout(Exception):
    """One call took longer than the model's own limit."""


class Crashed(Exception):
    """The model ended its call with something that is not an `Exception`: `SystemExit`, or the panic of a Rust library.

    Args:
        cause: what it raised.
    """

    def __init__(self, cause: BaseException | str) -> None:
        super().__init__(cause if isinstance(cause, str) else describe(cause))


def describe(error: BaseException) -> str:
    """An error in one line, even if it cannot be shown."""
    try:
        return f"{type(error).__name__}: {error}".rstrip(": ")
    except Exception:  # noqa: BLE001 - its own `__str__` fails
        return type(error).__name__


class Execution(Protocol):
    """How one model is loaded, called and closed. `execution.room` decides how many calls run at once."""

    async def load(self) -> None:
        """Make the model ready, before the first call. After a failure it may be called again, on the same instance."""

    async def call(self, inputs: Sequence[Any], on_start: Callable[[], None], on_end: Callable[[], None]) -> list[Any]:
        """Run the model once.

        Args:
            inputs: validated; one, unless the model takes many.
            on_start: called when the model starts.
            on_end: called exactly once, on the event loop, when the model no longer runs for this call. A call over its
                limit may have been abandoned long before.

        Returns:
            The outputs, in the order of the inputs.

        Raises:
            ModelTimeout: the call took longer than the model's limit.
            Exception: what the model raised.
        """

    async def close(self) -> None:
        """Let the model clean up, if it was loaded."""
