"""Reading bodies: bounded before parsing."""

import contextlib
import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from responder.reading import Refused, is_deeper_than, read_input
from tests.fakes import Question

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
        began = time.perf_counter()
        is_deeper_than(body, 64)
        took.append(time.perf_counter() - began)
    assert min(took) < 0.05


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
    from schemas.canonical import NotCanonical, canonical_bytes

    with pytest.raises((Refused, NotCanonical)):
        canonical_bytes(read_input(body, Question, max_depth=64))


def test_the_details_name_fields_and_show_no_values() -> None:
    """What a client sent may be secret; what is wrong with it is not."""
    with pytest.raises(Refused) as refused:
        read_input(b'{"text": 1, "weight": "canary"}', Question, max_depth=64)
    assert [field["field"] for field in refused.value.details["fields"]] == ["text", "weight"]
    assert "canary" not in str(refused.value.details)
