"""Fixtures for tests of callers: `pytest_plugins = ["prediction_client.pytest_plugin"]` in the topmost conftest.py."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from prediction_client import BlockingPredictionClient, PredictionClient


@pytest.fixture
def answering() -> "Callable[..., AbstractAsyncContextManager[PredictionClient]]":
    """`prediction_client.testing.answering`: `async with answering(price) as client: ...`."""
    from prediction_client.testing import answering  # only when a test uses it: it imports the responder

    return answering


@pytest.fixture
def answering_blocking() -> "Callable[..., AbstractContextManager[BlockingPredictionClient]]":
    """`prediction_client.testing.answering_blocking`: `with answering_blocking(price) as client: ...`."""
    from prediction_client.testing import answering_blocking

    return answering_blocking
