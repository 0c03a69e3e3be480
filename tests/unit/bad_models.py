"""A module whose predictor is refused when it is imported."""

from prediction_responder import predictor


@predictor()
def no_annotation(features):  # type: ignore[no-untyped-def]
    """It says nothing of its types."""
    return features
