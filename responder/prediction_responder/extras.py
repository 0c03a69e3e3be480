"""Optional dependencies: if one is missing, one line says what to install."""

from collections.abc import Iterator
from contextlib import contextmanager

DISTRIBUTION = "prediction-responder"
_OURS = ("prediction_", "amqp_lane")


class MissingExtra(ImportError):
    """A package of an extra is not installed; the message says how to install it."""


@contextmanager
def extra(name: str) -> Iterator[None]:
    """Guard imports that need an extra of the distribution.

    Raises:
        MissingExtra: a package is missing that is not one of ours.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith(_OURS):
            raise
        msg = f"{error.name} is not installed; it comes with: pip install '{DISTRIBUTION}[{name}]'"
        raise MissingExtra(msg) from error
