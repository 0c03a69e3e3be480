"""The interface through which the responder reports its work: values in, nothing back."""

from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import NamedTuple

from prediction_responder.messages import Key, Outcome, Reply, Request
from prediction_responder.observe.logs import logger

log = logger(__name__)


class Oddity(StrEnum):
    """Something that was ignored or refused, without an error for a caller. The values are labels of a metric."""

    NOT_A_REQUEST = "not_a_request"  # a reply came to a request queue
    REPLY_TO_REFUSED = "reply_to_refused"
    MALFORMED_CACHE_CONTROL = "malformed_cache_control"
    MALFORMED_DEADLINE = "malformed_deadline"
    UNUSABLE_VALUE = "unusable_value"  # in the cache: damaged, of another key or version
    LEASE_LOST = "lease_lost"
    COMMIT_FENCED = "commit_fenced"  # a result came too late to be stored


class Refreshed(StrEnum):
    """How a background refresh ended. The values are labels of a metric."""

    DONE = "done"
    FAILED = "failed"
    ELSEWHERE = "elsewhere"  # another replica did it, or the model is not to be called now
    DROPPED = "dropped"


class Call(NamedTuple):
    """One model call.

    Args:
        number: no other call of this process has it.
        model: its name.
        key: of the answer.
        waiting: the requests that waited when it started; none for a refresh.
    """

    number: int
    model: str
    key: Key
    waiting: Sequence[Request]


class Observer:
    """Receives reports of what happened. What happens per request is reported per batch.

    This one ignores them all: it serves a responder without metrics, and is the base of the others. Metrics, traces and
    the recorders of tests are observers.
    """

    def received(self, batch: Sequence[Request]) -> None:
        """A batch of requests is about to be answered."""

    def replied(self, replies: Sequence[Reply]) -> None:
        """A batch of replies was handed to the transport."""

    def call_started(self, call: Call) -> None:
        """A model call started."""

    def call_ended(self, call: Call, outcome: Outcome) -> None:
        """A model call that had started ended. One that a stop cut off does not."""

    def refreshed(self, model: str, ended: Refreshed) -> None:
        """A background refresh ended."""

    def settled(self, fate: str, count: int) -> None:
        """What became of a batch of published replies: confirmed, returned, refused or abandoned."""

    def odd(self, kind: Oddity) -> None:
        """Something was ignored or refused."""

    def watch_cache(self, is_up: Callable[[], bool]) -> None:
        """Take a function that says whether the cache can be reached."""


class Observers(Observer):
    """Passes each report to several observers, in their order. One that raises is logged, and hurts no request.

    Args:
        observers: who gets the reports.
    """

    def __init__(self, *observers: Observer) -> None:
        self._all = observers

    def received(self, batch: Sequence[Request]) -> None:
        self._each(lambda one: one.received(batch))

    def replied(self, replies: Sequence[Reply]) -> None:
        self._each(lambda one: one.replied(replies))

    def call_started(self, call: Call) -> None:
        self._each(lambda one: one.call_started(call))

    def call_ended(self, call: Call, outcome: Outcome) -> None:
        self._each(lambda one: one.call_ended(call, outcome))

    def refreshed(self, model: str, ended: Refreshed) -> None:
        self._each(lambda one: one.refreshed(model, ended))

    def settled(self, fate: str, count: int) -> None:
        self._each(lambda one: one.settled(fate, count))

    def odd(self, kind: Oddity) -> None:
        self._each(lambda one: one.odd(kind))

    def watch_cache(self, is_up: Callable[[], bool]) -> None:
        self._each(lambda one: one.watch_cache(is_up))

    def _each(self, report: Callable[[Observer], None]) -> None:
        for one in self._all:
            try:
                report(one)
            except Exception:
                log.exception("observer_failed", observer=type(one).__name__)


NOBODY = Observer()
