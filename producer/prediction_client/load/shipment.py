"""What one process of a load says to its parent, some times a second."""

from array import array
from dataclasses import dataclass, field


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
        asked_model: the inputs of wrong replies that came from the model.
        unfinished_s: how long the requests had waited that nobody waits for any more, because the run was ended.
        sent: how many requests were published.
        now_s: the time of the run.
        cpu_s: the processor time of this process since it began to send.
        problem: what ails a connection to the broker.
        is_last: whether it has ended.
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
