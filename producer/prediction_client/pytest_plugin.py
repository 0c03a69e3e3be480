"""Fixtures for the tests of those who ask: `pytest_plugins = ["producer.pytest_plugin"]` in the topmost conftest.py."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from prediction_client import BlockingPredictionClient, PredictionClient


@pytest.fixture
def answering() -> "Callable[..., AbstractAsyncContextManager[PredictionClient]]":
    """`producer.testing.answering`: `async with answering(price) as client: ...`."""
    from prediction_client.testing import answering  # not before somebody asks: it imports a responder

    return answering


@pytest.fixture
def answering_blocking() -> "Callable[..., AbstractContextManager[BlockingPredictionClient]]":
    """`producer.testing.answering_blocking`: `with answering_blocking(price) as client: ...`."""
    from prediction_client.testing import answering_blocking

    return answering_blocking
