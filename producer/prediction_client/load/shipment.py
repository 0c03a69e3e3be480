"""The report of a load process to its parent, several times a second."""

from array import array
from dataclasses import dataclass, field


@dataclass
class Calls:
    """Requests with the same outcome: scheduled starts and durations, in seconds, and input numbers."""

    due: "array[float]" = field(default_factory=lambda: array("d"))
    took: "array[float]" = field(default_factory=lambda: array("d"))
    keys: "array[int]" = field(default_factory=lambda: array("q"))


@dataclass
class Shipment:
    """What one process recorded since its last shipment.

    Attributes:
        answers: the correct replies by cache status.
        failures: the failures by error code.
        behind_s: how much later than scheduled each request was sent.
        in_flight: the number of requests that have not ended.
        unawaited: the number of replies to unknown requests, or to requests that had ended.
        asked_model: the inputs of wrong replies that came from the model.
        unfinished_s: how long each unfinished request had waited at the end of the run.
        sent: the number of requests that were published.
        now_s: the time of the run.
        cpu_s: the processor time of this process since it began to send.
        problem: the last error of a connection to the broker.
        is_last: whether this is the last shipment of the process.
    """

    answers: dict[str, Calls] = field(default_factory=dict)
    failures: dict[str, Calls] = field(default_factory=dict)
    behind_s: "array[float]" = field(default_factory=lambda: array("d"))
    in_flight: int = 0
    unawaited: int = 0
    asked_model: "array[int]" = field(default_factory=lambda: array("q"))
    unfinished_s: "array[float]" = field(default_factory=lambda: array("d"))
    sent: int = 0
    now_s: float = 0.0
    cpu_s: float = 0.0
    problem: str | None = None
    is_last: bool = False
