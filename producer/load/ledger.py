"""Which requests are under way, and how the others ended."""

from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from producer.errors import PredictionError
from producer.prediction import Prediction

LATE_S = 0.5  # the responder says that it is too late when the time is over; that reply still has to come
WRONG, MISSING, NOT_SENT, NO_BROKER = "WRONG_REPLY", "NO_REPLY", "NOT_SENT", "NO_BROKER"


@dataclass
class Calls:
    """Requests that ended alike: when they were to begin and how long they took, in seconds, and their inputs."""

    due: "array[float]" = field(default_factory=lambda: array("d"))
    took: "array[float]" = field(default_factory=lambda: array("d"))
    keys: "array[int]" = field(default_factory=lambda: array("q"))


@dataclass
class Shipment:
    """What one process has to say of the last moments.

    Attributes:
        answers: by cache status.
        failures: by error code.
        behind_s: how much later than planned each request was sent.
        in_flight: how many requests have not ended.
        unawaited: replies to no request of ours, or to one that had ended.
        cpu_s: the processor time of this process since it began to send.
        is_last: whether it has ended.
    """

    answers: dict[str, Calls] = field(default_factory=dict)
    failures: dict[str, Calls] = field(default_factory=dict)
    behind_s: "array[float]" = field(default_factory=lambda: array("d"))
    in_flight: int = 0
    unawaited: int = 0
    cpu_s: float = 0.0
    is_last: bool = False


class Ledger:
    """The requests of one process. Those of the warm-up are due before 0, and are not counted.

    Args:
        timeout_s: when a request has waited too long.
        results: what is right, by the input's number; empty where nobody knows.
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
        self._results = [_written(result) for result in results]
        self._same_answers = same_answers
        self._on_end = on_end
        self._seen: dict[int, bytes] = {}
        self._waiting: dict[bytes, tuple[float, int]] = {}  # in the order in which their time ends
        self._shipment = Shipment()

    def __len__(self) -> int:
        return len(self._waiting)

    def __contains__(self, identifier: bytes | None) -> bool:
        return identifier in self._waiting

    def begin(self, identifier: bytes, due: float, now: float, key: int) -> None:
        """A request is sent now that was due before, or now."""
        self._waiting[identifier] = due, key
        if due >= 0:
            self._shipment.behind_s.append(now - due)

    def end(self, identifier: bytes, outcome: Prediction | PredictionError | str, now: float) -> None:
        """A request has ended; with the code of an error, if nobody says anything else."""
        due, key = self._waiting.pop(identifier)
        if isinstance(outcome, Prediction):
            if not self._is_right(key, outcome.value):
                self.fail(WRONG, due, now, key)
            elif due >= 0:
                _note(self._shipment.answers, outcome.cache_status.kind, due, now, key)
        elif isinstance(outcome, PredictionError):
            self.fail(WRONG if outcome.code == "MALFORMED_REPLY" else outcome.code, due, now, key)
        else:
            self.fail(outcome, due, now, key)
        self._on_end(identifier)

    def fail(self, code: str, due: float, now: float, key: int) -> None:
        """A request has failed, or could not be sent."""
        if due >= 0:
            _note(self._shipment.failures, code, due, now, key)

    def end_late(self, now: float) -> None:
        """End what no reply will come to any more."""
        while self._waiting:
            identifier, (due, _) = next(iter(self._waiting.items()))
            if due + self._timeout_s + LATE_S > now:
                return
            self.end(identifier, MISSING, now)

    def end_all(self, code: str, now: float) -> None:
        """The reply queue has gone, and what it would have held."""
        for identifier in list(self._waiting):
            self.end(identifier, code, now)

    def note_unawaited(self) -> None:
        """A reply to nobody has come."""
        self._shipment.unawaited += 1

    def shipment(self, cpu_s: float, *, is_last: bool = False) -> Shipment:
        """What has been noted since the last one."""
        shipment, self._shipment = self._shipment, Shipment()
        shipment.in_flight, shipment.cpu_s, shipment.is_last = len(self._waiting), cpu_s, is_last
        return shipment

    def _is_right(self, key: int, value: Any) -> bool:
        if self._results:
            return _written(value) == self._results[key]
        if self._same_answers:
            written = _written(value)
            return self._seen.setdefault(key, written) == written
        return True


def _note(calls: dict[str, Calls], kind: str, due: float, now: float, key: int) -> None:
    ended = calls.get(kind)
    if ended is None:
        ended = calls[kind] = Calls()
    ended.due.append(due)
    ended.took.append(now - due)
    ended.keys.append(key)


def _written(value: Any) -> bytes:
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
