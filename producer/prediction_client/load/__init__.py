"""The load tool: sends requests on a schedule, and measures their outcomes.

It needs the extra `load`: `pip install 'prediction-responder[load]'`.
"""

from prediction_client.load.arrivals import Arrivals, ClosedLoop, OpenLoop
from prediction_client.load.inputs import Inputs, InputsUnusable, Popularity
from prediction_client.load.measured import Run
from prediction_client.load.plan import Plan
from prediction_client.load.running import LoadFailed, run
from prediction_client.reply_channel import Broker

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
