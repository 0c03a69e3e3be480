"""Logs show no bodies and no secrets."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import sys
from prediction_responder.observe.log_output import set_up_logs
from prediction_responder.observe.logs import logger
set_up_logs(sys.argv[1], "INFO")
def model(body):
    api_key = "S3CRET-LOCAL"
    raise ValueError("the model's own words")
try:
    model(b"PRIVATE-BODY")
except ValueError as error:
    logger("test").error("model_error", exc_info=error)
"""


@pytest.mark.parametrize("style", ["console", "json"])
def test_a_traceback_shows_no_local_variables(style: str) -> None:
    """They hold bodies and secrets."""
    root = Path(__file__).resolve().parents[2]
    ended = subprocess.run([sys.executable, "-c", SCRIPT, style], cwd=root, capture_output=True, text=True, check=True)
    assert "the model's own words" in ended.stderr
    assert "S3CRET" not in ended.stderr
    assert "PRIVATE-BODY" not in ended.stderr
