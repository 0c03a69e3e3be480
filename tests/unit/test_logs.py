"""Logs show no bodies and no secrets."""

import subprocess
import sys

import pytest

from prediction_responder.observe.logs import logger
from tests.real import ROOT

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
    ended = subprocess.run([sys.executable, "-c", SCRIPT, style], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "the model's own words" in ended.stderr
    assert "S3CRET" not in ended.stderr
    assert "PRIVATE-BODY" not in ended.stderr


EMBEDDED = """
import asyncio, sys
from pydantic import BaseModel
from prediction_client import PredictionError
from prediction_client.testing import answering
from prediction_responder import predictor

class Question(BaseModel):
    text: str

@predictor()
def failing(question: Question) -> str:
    api_key = "S3CRET-LOCAL"
    raise ConnectionError("cannot reach https://user:S3CRET-URL@host/")

async def main():
    async with answering(failing) as client:
        try:
            await client.predict("failing", {"text": "PRIVATE-BODY"})
        except PredictionError as error:
            assert error.code == "MODEL_ERROR", error
    assert "structlog" not in sys.modules

asyncio.run(main())
"""


def test_an_embedded_responder_logs_as_a_library_does() -> None:
    """Where nobody has configured logging: the event and a plain traceback, without locals and bodies."""
    ended = subprocess.run([sys.executable, "-c", EMBEDDED], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert "model_error model=failing" in ended.stderr
    assert "ConnectionError: cannot reach" in ended.stderr
    assert "S3CRET-LOCAL" not in ended.stderr
    assert "PRIVATE-BODY" not in ended.stderr


def test_an_event_is_a_message_and_fields(caplog: pytest.LogCaptureFixture) -> None:
    """For any handler and any structured formatter; without passwords, on one line, whatever is in a field."""
    with caplog.at_level("INFO"):
        logger("some.module").info("redis_away", problem="redis://u:S3CRET@host/\nforged", percent="100%s", count=3)
    [record] = caplog.records
    assert (record.name, record.levelname) == ("some.module", "INFO")
    assert record.getMessage() == "redis_away problem=redis://***@host/\\nforged percent=100%s count=3"
    assert vars(record)["event"] == "redis_away"
    assert vars(record)["fields"] == {"problem": "redis://***@host/\\nforged", "percent": "100%s", "count": 3}
