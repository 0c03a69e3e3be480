"""A real classifier of handwritten digits, trained on the UCI data set that scikit-learn includes.

It is trained once. The weights are stored in the user's cache folder as plain numbers. The file is the model's
artefact, so its bytes are part of every key.
"""

import json
import os
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import BaseModel, Field

from prediction_responder import predictor

_CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "prediction-responder"
WEIGHTS = _CACHE / "digits-1.json"

Pixel = Annotated[float, Field(ge=0, le=16)]


class Image(BaseModel):
    """An 8 by 8 picture, row by row, from 0 (white) to 16 (black)."""

    pixels: list[Pixel] = Field(min_length=64, max_length=64)


class Digit(BaseModel):
    """The digit that the picture shows, and how probable each digit is."""

    label: int
    probabilities: list[float]


def train() -> dict[str, list[list[float]] | list[float]]:
    """Fit a logistic regression to the real images, and return its weights."""
    from sklearn.datasets import load_digits
    from sklearn.linear_model import LogisticRegression

    images, labels = load_digits(return_X_y=True)
    classifier = LogisticRegression(max_iter=500).fit(images / 16.0, labels)
    return {"coefficients": classifier.coef_.tolist(), "intercepts": classifier.intercept_.tolist()}


class Digits:
    """Softmax over a linear model, as scikit-learn's `predict_proba` computes it."""

    def load(self) -> None:
        """Read the weights; train them first if there is no file."""
        if not WEIGHTS.exists():
            _CACHE.mkdir(parents=True, exist_ok=True)
            # Written to a draft and moved, so that a replica that starts at the same time never reads half a file.
            draft = WEIGHTS.with_suffix(f".{os.getpid()}")
            draft.write_text(json.dumps(train()))
            draft.replace(WEIGHTS)
        weights = json.loads(WEIGHTS.read_text())
        self._coefficients = np.array(weights["coefficients"])
        self._intercepts = np.array(weights["intercepts"])

    def predict(self, image: Image) -> Digit:
        """Classify one picture."""
        scores = self._coefficients @ (np.array(image.pixels) / 16.0) + self._intercepts
        odds = np.exp(scores - scores.max())
        probabilities = odds / odds.sum()
        return Digit(label=int(probabilities.argmax()), probabilities=probabilities.round(6).tolist())


# Beside the class, and not above it: type checkers ignore the decorators of classes.
digits = predictor(name="digits", version="1", ttl_s=600, artefacts=WEIGHTS)(Digits)
