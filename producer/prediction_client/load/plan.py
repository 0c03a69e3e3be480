"""The plan of a run; every process gets the same one."""

from dataclasses import dataclass
from random import Random

from prediction_client.load.arrivals import Arrivals, ClosedLoop
from prediction_client.load.inputs import Inputs
from prediction_client.reply_channel import Broker


@dataclass(frozen=True)
class Plan:
    """The plan of a run.

    Args:
        broker: where to connect, and the names to use there.
        model: the model's name.
        arrivals: the schedule of requests.
        inputs: the inputs to send.
        timeout_s: the timeout of a request, from its scheduled start.
        cache_control: the directives of all requests.
        tenant: the tenant of all requests.
        same_answers: whether different answers to the same input are wrong.
        processes: the number of processes that send requests.
        seed: the same seed gives the same requests at the same times.
        max_in_flight: the most requests in flight per process; a request beyond it is not sent, and counted as failed.
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
        """Raises ValueError: the plan is impossible; the message says what to change."""
        if self.same_answers and self.processes > 1:
            raise ValueError("--same-answers compares answers within one process: leave out --processes")
        arrivals, inputs = self.arrivals, self.inputs
        if isinstance(arrivals, ClosedLoop) and arrivals.in_flight > self.max_in_flight * self.processes:
            raise ValueError(f"--closed: at most {self.max_in_flight:,} for each process")
        if inputs.popularity.name == "distinct" and inputs.bodies and inputs.count < int(arrivals.planned):
            raise ValueError(
                f"--keys distinct: {inputs.count:,} inputs are too few for {arrivals.planned:,.0f} requests"
            )

    def random(self, process: int) -> Random:
        """The random numbers of one process; each process has different ones."""
        return Random(f"{self.seed} {process}")
