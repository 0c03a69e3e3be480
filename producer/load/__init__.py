"""The load tool: requests on a schedule, and what became of each.

It needs the extra `load`: `pip install 'prediction-responder[load]'`.
"""

from producer.load.arrivals import Arrivals, ClosedLoop, OpenLoop
from producer.load.inputs import Inputs, InputsUnusable, Popularity
from producer.load.measured import Run
from producer.load.plan import Broker, Plan
from producer.load.running import LoadFailed, run

__all__ = [
    "Arrivals",
    "Broker",
    "ClosedLoop",
    "Inputs",
    "InputsUnusable",
    "LoadFailed",
    "OpenLoop",
    "Plan",
    "Popularity",
    "Run",
    "run",
]
