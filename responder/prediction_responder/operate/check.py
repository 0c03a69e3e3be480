"""The settings and models in force, without serving."""

import json
from collections.abc import Sequence
from typing import Any

from prediction_responder.model.predictor import AnyPredictor
from prediction_responder.settings import Settings
from prediction_schemas.wire import Addresses


def check(predictors: Sequence[AnyPredictor], settings: Settings) -> dict[str, Any]:
    """The settings in force, secrets hidden, and the facts of each model."""
    return {
        "settings": json.loads(settings.model_dump_json()),
        "models": [
            {
                "name": one.name,
                "version": one.version,
                "queue": Addresses(settings.namespace).requests(one.name),
                "ttl_s": one.ttl_s,
                "timeout_s": one.timeout_s,
                "concurrency": one.permits,
                "runs": "on the event loop" if one.is_async else "in threads",
                "input": one.input_type.model_json_schema(),
            }
            for one in predictors
        ],
    }
