"""How the service calls a model, wherever the model runs."""

from collections.abc import Callable
from typing import Any, Protocol


class ModelTimeout(Exception):
    """One call took longer than the model's own limit."""


class Crashed(Exception):
    """The model ended its call with something that is not an `Exception`, such as `SystemExit`."""


class Execution(Protocol):
    """How one model is loaded, called and closed."""

    @property
    def is_busy(self) -> bool:
        """Whether a call would have to wait for its permit. If not, `call` takes one before its first suspension."""

    async def load(self) -> None:
        """Make the model ready, before the first call. After a failure it may be called again, on the same instance."""

    async def call(self, value: Any, on_start: Callable[[], None]) -> Any:
        """Wait for a permit, call `on_start`, and run the model.

        Raises:
            ModelTimeout: the call took longer than the model's limit.
            Exception: what the model raised.
        """

    async def close(self) -> None:
        """Let the model clean up, if it was loaded."""
