"""The requests in flight of one process, and the outcomes of the others."""

from collections.abc import Callable, Sequence
from typing import Any

from prediction_client.errors import PredictionError
from prediction_client.load.shipment import Calls, Shipment
from prediction_client.prediction import Prediction

LATE_S = 0.5  # the responder replies DEADLINE_EXCEEDED at the deadline; that reply needs time to arrive
NO_MODEL_CALL = frozenset({"hit", "stale", "collapsed", "none"})  # cache statuses
WRONG, MISSING, NOT_SENT, NO_BROKER = "WRONG_REPLY", "NO_REPLY", "NOT_SENT", "NO_BROKER"


class Ledger:
    """The requests of one process. Requests of the warm-up are due before time 0, and are not counted.

    Args:
        timeout_s: the timeout of a request.
        results: the expected results by input number; empty if they are not known.
        same_answers: whether different answers to one input are wrong.
        on_end: called with the identifier of each request that ends.
    """

    def __init__(
        self,
        *,
        timeout_s: float,
        results: Sequence[Any],
        same_answers: bool,
        on_end: Callable[[bytes], None] = lambda _identifier: None,
    ) -> None:
        self._timeout_s = timeout_s
        self._results = results
        self._same_answers = same_answers
        self._on_end = on_end
        self._seen: dict[int, Any] = {}
        self._waiting: dict[bytes, tuple[float, int]] = {}  # in the order of their deadlines
        self._shipment = Shipment()

    def __len__(self) -> int:
        return len(self._waiting)

    def __contains__(self, identifier: bytes | None) -> bool:
        return identifier in self._waiting

    def begin(self, identifier: bytes, due: float, now: float, key: int) -> None:
        """Register a request that is sent now and was due now or earlier."""
        self._waiting[identifier] = due, key
        if due >= 0:
            self._shipment.sent += 1
            self._shipment.behind_s.append(now - due)

    def end(self, identifier: bytes, outcome: Prediction[Any] | PredictionError | str, now: float) -> None:
        """Record the outcome of a request; a string is an error code."""
        due, key = self._waiting.pop(identifier)
        if isinstance(outcome, Prediction):
            if not self._is_right(key, outcome.value):
                self.fail(WRONG, due, now, key)
                if due >= 0 and outcome.cache_status.kind not in NO_MODEL_CALL:
                    self._shipment.asked_model.append(key)
            elif due >= 0:
                _note(self._shipment.answers, outcome.cache_status.kind, due, now, key)
        elif isinstance(outcome, PredictionError):
            self.fail(WRONG if outcome.code == "MALFORMED_REPLY" else outcome.code, due, now, key)
        else:
            self.fail(outcome, due, now, key)
        self._on_end(identifier)

    def fail(self, code: str, due: float, now: float, key: int) -> None:
        """Count a request that failed, or that could not be sent."""
        if due >= 0:
            _note(self._shipment.failures, code, due, now, key)

    def end_late(self, now: float) -> None:
        """End the requests that will get no reply: their timeout has passed."""
        while self._waiting:
            identifier, (due, _) = next(iter(self._waiting.items()))
            if due + self._timeout_s + LATE_S > now:
                return
            self.end(identifier, MISSING, now)

    def end_all(self, code: str, now: float) -> None:
        """End all requests: the reply queue is gone, so no reply can come."""
        for identifier in list(self._waiting):
            self.end(identifier, code, now)

    def give_up(self, now: float) -> None:
        """End the run. Requests without a reply count as unfinished, not as failed."""
        self._shipment.unfinished_s.extend(now - due for due, _ in self._waiting.values() if due >= 0)
        for identifier in list(self._waiting):
            del self._waiting[identifier]
            self._on_end(identifier)

    def note_unawaited(self) -> None:
        """Count a reply for which no request waits."""
        self._shipment.unawaited += 1

    def shipment(self) -> Shipment:
        """What was recorded since the last shipment."""
        shipment, self._shipment = self._shipment, Shipment()
        shipment.in_flight = len(self._waiting)
        return shipment

    def _is_right(self, key: int, value: Any) -> bool:
        if self._results:
            return is_same_json(value, self._results[key])
        if self._same_answers:
            return is_same_json(value, self._seen.setdefault(key, value))
        return True


def _note(calls: dict[str, Calls], kind: str, due: float, now: float, key: int) -> None:
    ended = calls.get(kind)
    if ended is None:
        ended = calls[kind] = Calls()
    ended.due.append(due)
    ended.took.append(now - due)
    ended.keys.append(key)


def is_same_json(one: Any, other: Any) -> bool:
    """Whether two JSON values are the same: 4 and 4.0 are, 1 and true are not."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(is_same_json(one[name], other[name]) for name in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(is_same_json, one, other))
    return isinstance(one, bool) == isinstance(other, bool) and bool(one == other)
