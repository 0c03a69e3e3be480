"""The models that people copy."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from examples.price import Features, expected, price

SCRIPT = """
import json
import numpy as np
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from examples.digits import WEIGHTS, Digits, Image

images, labels = load_digits(return_X_y=True)
for _ in range(2):
    model = Digits()
    model.load()
answers = [model.predict(Image(pixels=image.tolist())) for image in images[::9]]
truth = LogisticRegression(max_iter=500).fit(images / 16.0, labels).predict_proba(images[::9] / 16.0)
right = sum(answer.label == label for answer, label in zip(answers, labels[::9]))
print(json.dumps({
    "weights": str(WEIGHTS),
    "accuracy": right / len(answers),
    "worst": float(np.abs(np.array([answer.probabilities for answer in answers]) - truth).max()),
}))
"""


@pytest.mark.servers  # it needs none, but six seconds, and bare `pytest` is to be quick
def test_the_digits_are_what_scikit_learn_says(tmp_path: Path) -> None:
    """Trained once on the real set, kept in the user's cache folder, and as good as the library's own model."""
    root = Path(__file__).resolve().parents[2]
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path)}
    ended = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=root, env=environment, capture_output=True, text=True, check=True
    )
    facts = json.loads(ended.stdout)
    assert Path(facts["weights"]).is_relative_to(tmp_path)
    assert facts["accuracy"] > 0.95
    assert facts["worst"] < 1e-5


async def test_the_price_depends_on_the_whole_input_and_on_nothing_else() -> None:
    """So every reply can be checked."""
    features = Features(pair="ETH/EUR", returns=[0.1])
    assert expected(features) == expected(features.model_copy())
    changes: list[dict[str, object]] = [{"pair": "A"}, {"horizon_minutes": 6}, {"returns": []}]
    others = [features.model_copy(update=change) for change in changes]
    assert len({expected(one) for one in [features, *others]}) == 4
    assert price.ttl_s == pytest.approx(float(os.environ.get("PRICE_TTL_SECONDS", "5")))
