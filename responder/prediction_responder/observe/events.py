"""The interface through which the responder reports its work: values in, nothing back."""

from collections.abc import Callable, Iterable

from prediction_responder.messages import Outcome
from prediction_schemas import Code


class Observer:
    """Receives reports of what happened; what happens per request is reported per batch.

    This one ignores them all: it serves a responder without metrics, and is the base of the others.
    """

    def count_replies(self, replies: Iterable[tuple[str, Code | None, str]]) -> None:
        """A batch of replies: model, error code and kind of cache status of each."""

    def count_model_call(self, model: str, outcome: Outcome) -> None:
        """A model call ended."""

    def count_refresh(self, model: str, ended: str) -> None:
        """A background refresh ended: done, failed, elsewhere or dropped."""

    def count_fates(self, fate: str, count: int) -> None:
        """What became of a batch of published replies: confirmed, returned, refused or abandoned."""

    def count_odd(self, kind: str) -> None:
        """Something in a message was ignored or refused. `kind` is one of a fixed set of words."""

    def watch_cache(self, is_up: Callable[[], bool]) -> None:
        """Take a function that says whether the cache can be reached."""
