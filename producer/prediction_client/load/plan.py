"""What a run is to do; every process gets the same plan."""

from dataclasses import dataclass
from random import Random

from prediction_client.load.arrivals import Arrivals, ClosedLoop
from prediction_client.load.inputs import Inputs
from prediction_client.reply_channel import Broker


@dataclass(frozen=True)
class Plan:
    """What a run is to do.

    Args:
        broker: where requests go.
        model: who is asked.
        arrivals: when.
        inputs: what.
        timeout_s: how long a request may take, from the moment when it was to begin.
        cache_control: of all requests.
        tenant: of all requests.
        same_answers: whether different answers to the same input are wrong.
        processes: how many make the requests.
        seed: the same one makes the same requests at the same times.
        max_in_flight: of each process; a request that would be one more is not made, and counted as failed.
    """

    broker: Broker
    model: str
    arrivals: Arrivals
    inputs: Inputs
    timeout_s: float = 30.0
    cache_control: str | None = None
    tenant: str | None = None
    same_answers: bool = False
    processes: int = 1
    seed: int = 1
    max_in_flight: int = 50_000

    def __post_init__(self) -> None:
        """Raises ValueError: it cannot be done; the message says what to change."""
        if self.same_answers and self.processes > 1:
            raise ValueError("--same-answers is compared within one process: without --processes")
        arrivals, inputs = self.arrivals, self.inputs
        if isinstance(arrivals, ClosedLoop) and arrivals.in_flight > self.max_in_flight * self.processes:
            raise ValueError(f"--closed: {self.max_in_flight:,} in each process at most")
        if inputs.popularity.name == "distinct" and inputs.bodies and inputs.count < int(arrivals.planned):
            raise ValueError(f"--keys distinct: {inputs.count:,} inputs for {arrivals.planned:,.0f} requests")

    def random(self, process: int) -> Random:
        """What one of the processes draws from; no two of them alike."""
        return Random(f"{self.seed} {process}")
