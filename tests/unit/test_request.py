"""What a client sends, and what it reads."""

import json
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from amqp_lane import Delivery, Properties
from prediction_client import InvalidArgument, Prediction
from prediction_client.prediction import prediction_of
from prediction_client.request import encode_input
from prediction_schemas import MalformedReply, Result, decode_reply
from tests.fakes import Question

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(values)
def test_any_json_value_is_sent_as_it_is(value: Any) -> None:
    """NaN as a word included."""
    assert json.loads(encode_input(value)) == value
    assert json.loads(encode_input({"text": "NaN", "Infinity": value})) == {"text": "NaN", "Infinity": value}


def test_pydantic_models_are_sent_wherever_they_stand() -> None:
    """Alone, or inside lists and dictionaries."""
    question = Question(text="a")
    assert json.loads(encode_input(question)) == {"text": "a", "weight": 1.0}
    assert json.loads(encode_input({"all": [question]})) == {"all": [{"text": "a", "weight": 1.0}]}


class Named(BaseModel):
    """A model with names for others, and a number that may be no JSON."""

    pair: str = Field(serialization_alias="other")
    weight: float = 1.0


@dataclass
class Pair:
    """A model inside of what is none."""

    named: Named


def test_a_model_is_sent_by_its_field_names() -> None:
    """The responder reads fields; a name that is meant for somebody else's output would be a wrong question."""
    assert json.loads(encode_input(Named(pair="a"))) == {"pair": "a", "weight": 1.0}


@pytest.mark.parametrize(
    "value",
    [
        Named(pair="a", weight=float("nan")),
        {"a": Named(pair="a", weight=float("nan"))},
        [Named(pair="a", weight=float("inf"))],
        Pair(Named(pair="a", weight=-float("inf"))),
        float("nan"),
        [float("inf")],
        {"a": -float("inf")},
        object(),
        "\ud800",
    ],
    ids=[
        "nan in a model",
        "nan in a model in a dict",
        "inf in a model in a list",
        "-inf in a model in a dataclass",
        "nan",
        "inf",
        "-inf",
        "an object",
        "a lone surrogate",
    ],
)
def test_what_is_not_json_is_a_typed_error_before_it_is_sent(value: Any) -> None:
    """Nothing is sent as null in silence."""
    with pytest.raises(InvalidArgument, match="cannot be written as JSON"):
        encode_input(value)


@given(values)
def test_the_short_way_and_the_long_way_read_the_same_reply(value: Any) -> None:
    """A result as the responder writes it, and one with spaces or more fields, which a later version may add."""
    text = json.dumps(value, separators=(",", ":"))
    assert decode_reply(f'{{"result":{text}}}'.encode()) == Result(value)
    assert decode_reply(f'{{ "result" : {text} , "later": 1}}'.encode()) == Result(value)


@pytest.mark.parametrize(
    "body",
    [
        b'{"result":1,"error":{"code":"INTERNAL","status":500,"message":"m"}}',
        b'{"result":1}}',
        b'{"result":}',
        b'{"result":1 2}',
        b"{}",
        b"",
        b"[1]",
    ],
)
def test_what_is_no_reply_is_said_to_be_none(body: bytes) -> None:
    """The short way takes nothing that the long way refuses."""
    with pytest.raises(MalformedReply):
        decode_reply(body)


def test_headers_that_are_too_long_are_read_as_absent() -> None:
    """And are kept nowhere: whoever can write to a reply queue cannot grow the client."""
    names = (b"age", b"model", b"cache-status", b"duration-ms")
    headers: dict[bytes, bytes | None] = dict.fromkeys(names, b"9" * 100_000)
    reply = Delivery("q", b'{"result":1}', Properties(headers=headers), redelivered=False, tag=1, epoch=1)
    prediction = prediction_of(reply)
    assert isinstance(prediction, Prediction)
    assert (prediction.age_s, prediction.model, prediction.duration_ms) == (0, "", 0)
