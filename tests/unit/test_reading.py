"""Reading bodies: bounded before parsing."""

import contextlib
import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from prediction_responder.execution.input import has_more_values_than, is_deeper_than, read_input
from prediction_responder.messages import Refused
from prediction_schemas.canonical import NotCanonical, canonical_bytes
from tests.fakes import Question
from tests.pace import cpu_pace

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=20,
)


def depth(value: object) -> int:
    """The real depth."""
    if isinstance(value, list):
        return 1 + max((depth(item) for item in value), default=0)
    if isinstance(value, dict):
        return 1 + max((depth(item) for item in value.values()), default=0)
    return 0


@given(json_values, st.integers(0, 6), st.booleans())
def test_depth_is_found_without_parsing(value: object, limit: int, ascii_only: bool) -> None:  # noqa: FBT001
    """Brackets and quotes in strings do not count."""
    body = json.dumps(value, ensure_ascii=ascii_only).encode()
    assert is_deeper_than(body, limit) == (depth(value) > limit)


@pytest.mark.parametrize(
    "body", [b"[" * 500_000 + b"]" * 500_000, b'[{"":' * 200_000, b"[]," * 300_000, b'["' + b'\\"[' * 300_000 + b'"]']
)
def test_a_hostile_megabyte_is_measured_in_milliseconds(body: bytes) -> None:
    """Before any parser sees it. The least of three: what the machine does besides is not the promise."""
    took = []
    for _ in range(3):
        began = time.thread_time()
        is_deeper_than(body, 64)
        took.append(time.thread_time() - began)
    assert min(took) < 0.05 * cpu_pace()


def weight(value: object) -> int:
    """How many commas, lists and objects a value is written with."""
    if not isinstance(value, list | dict):
        return 0
    items = value.values() if isinstance(value, dict) else value
    return 1 + max(0, len(value) - 1) + sum(weight(item) for item in items)


@given(json_values, st.integers(1, 30), st.booleans())
def test_values_are_counted_without_parsing(value: object, limit: int, ascii_only: bool) -> None:  # noqa: FBT001
    """Exactly, whatever strings hold: a long text with many commas is one value."""
    body = json.dumps(value, ensure_ascii=ascii_only).encode()
    assert has_more_values_than(body, limit) == (weight(value) >= limit)


@pytest.mark.parametrize(
    "value",
    [
        b"[],",
        b"{},",
        b"1,",
        b"0.12345,",
        b'"",',
        b'"a",',
        b'"a,b",',
        b'{"a":1},',
        b"9" * 4_300 + b",",
        b"1e400,",
        b'"\\ud800",',
    ],
)
@pytest.mark.parametrize("bytes_", [40_000, 90_000, 2**20])
def test_no_body_keeps_the_loop_for_fifty_milliseconds(value: bytes, bytes_: int) -> None:
    """Read, validated, written as a key or refused, under a schema that takes it and one that does not."""

    class Anything(BaseModel):
        text: Any

    class Numbers(BaseModel):
        text: list[float]

    body = b'{"text":[' + value * ((bytes_ - 12) // len(value)) + value[:-1] + b"]}"
    for model in (Anything, Numbers):
        took = []
        for _ in range(5):  # the least of five: what the machine does besides is not the promise
            began = time.thread_time()
            with contextlib.suppress(Refused, NotCanonical):
                canonical_bytes(read_input(body, model, max_depth=64))
            took.append(time.thread_time() - began)
        assert min(took) < 0.05 * cpu_pace()


def test_many_faults_are_counted_and_some_are_named() -> None:
    """To list them all would take longer than to find them."""

    class Numbers(BaseModel):
        numbers: list[float]

    body = json.dumps({"numbers": ["a"] * 30_000}).encode()
    with pytest.raises(Refused) as refused:
        read_input(body, Numbers, max_depth=64)
    assert str(refused.value).startswith("numbers.0: Input should be a valid number")
    assert str(refused.value).endswith("(and 29999 more)")
    assert len(refused.value.details["fields"]) == 10
    body = json.dumps({"numbers": [1] * 100 + ["a"] * 30_000}).encode()
    with pytest.raises(Refused, match="30000 fields do not fit the schema"):
        read_input(body, Numbers, max_depth=64)
    with pytest.raises(Refused, match="more than 5 values"):
        read_input(b'{"numbers":[1,2,3,4,5,6]}', Numbers, max_depth=64, max_values=5)


@given(st.binary(max_size=50))
def test_any_bytes_are_an_input_or_a_refusal(body: bytes) -> None:
    """Never another exception."""
    with contextlib.suppress(Refused):
        read_input(body, Question, max_depth=64)


@pytest.mark.parametrize(
    "body",
    [b'{"text": "\\ud800"}', b'{"text": "a", "weight": 1e400}', b'{"text": "a", "weight": ' + b"9" * 5000 + b"}"],
)
def test_numbers_and_text_that_are_no_values_are_refused(body: bytes) -> None:
    """Lone surrogates, overflowing floats, integers of thousands of digits."""
    with pytest.raises((Refused, NotCanonical)):
        canonical_bytes(read_input(body, Question, max_depth=64))


def test_the_details_name_fields_and_show_no_values() -> None:
    """What a client sent may be secret; what is wrong with it is not."""
    with pytest.raises(Refused) as refused:
        read_input(b'{"text": 1, "weight": "canary"}', Question, max_depth=64)
    assert [field["field"] for field in refused.value.details["fields"]] == ["text", "weight"]
    assert "canary" not in str(refused.value.details)
