"""The canonical form: equal inputs share a key, different ones never do."""

from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, SecretStr

from prediction_schemas.canonical import NotCanonical, canonical_bytes, exclude_from_key
from prediction_schemas.closed_types import LossySchema, check_schema

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]))
    | st.binary()
    | st.dates()
    | st.datetimes()
    | st.times()
    | st.timedeltas()
    | st.uuids()
    | st.decimals(allow_nan=False, allow_infinity=False)
)
names = st.text(st.characters(exclude_categories=["Cs"]), max_size=3)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4) | st.lists(inner, max_size=4).map(tuple) | st.dictionaries(names, inner, max_size=4)
    ),
    max_leaves=12,
)


def identity(value: Any) -> Any:
    """What a model can tell apart: type and representation, all the way down; not the order of a dict."""
    if isinstance(value, dict):
        return ("dict", frozenset((name, identity(item)) for name, item in value.items()))
    if isinstance(value, list | tuple):
        return (type(value).__name__, tuple(identity(item) for item in value))
    return (type(value).__name__, repr(value))


@given(values, values)
def test_two_values_share_a_form_exactly_when_they_are_the_same(one: Any, other: Any) -> None:
    """Injective, and a function of nothing but the value."""
    assert (canonical_bytes(one) == canonical_bytes(other)) == (identity(one) == identity(other))


@given(st.dictionaries(names, values, min_size=2, max_size=5), st.randoms())
def test_the_order_of_a_dict_does_not_matter(value: dict[str, Any], random: Any) -> None:
    """Two callers write the same object in two orders."""
    items = list(value.items())
    random.shuffle(items)
    assert canonical_bytes(dict(items)) == canonical_bytes(value)


class Colour(Enum):
    """An enum."""

    RED = "red"


class Shade(Enum):
    """Another with the same member."""

    RED = "red"


class Inner(BaseModel):
    """A nested model."""

    x: int


class Twin(BaseModel):
    """Another with the same field."""

    x: int


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1, 1.0),
        (1, True),
        (0, False),
        (0.0, -0.0),
        (None, "None"),
        (b"a", "a"),
        ([1], (1,)),
        ({}, []),
        ("", b""),
        (["ab", "c"], ["a", "bc"]),
        ([["a"], "b"], ["a", ["b"]]),
        ({"a": 1, "b": 2}, {"a": 2, "b": 1}),
        ("é", "e\u0301"),
        (2**64, 2**64 + 1),
        (16**1200, 16**1200 + 1),
        (1e300, 1.0000000000000002e300),
        (Decimal("1.0"), Decimal("1.00")),
        (date(2026, 1, 1), datetime(2026, 1, 1)),
        (datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 1)),
        (datetime(2026, 1, 1, 12, tzinfo=UTC), datetime(2026, 1, 1, 13, tzinfo=timezone(timedelta(hours=1)))),
        (UUID(int=1), str(UUID(int=1))),
        (Colour.RED, "red"),
        (Colour.RED, Shade.RED),
        (Inner(x=1), {"x": 1}),
        (Inner(x=1), Twin(x=1)),
    ],
)
def test_values_that_a_model_can_tell_apart_have_different_forms(one: Any, other: Any) -> None:
    """The traps in which other caches give one answer to two questions."""
    assert canonical_bytes(one) != canonical_bytes(other)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), Decimal("NaN"), Decimal("Infinity")])
def test_what_is_not_a_number_is_refused(value: Any) -> None:
    """pydantic and orjson write all of them as null: one key for three questions."""
    with pytest.raises(NotCanonical, match="NaN and Infinity"):
        canonical_bytes({"x": [value]})


@pytest.mark.parametrize("value", ["\ud800", {1: "x"}, {"x"}, object(), SecretStr("x"), Path("/")])
def test_what_has_no_form_is_refused_and_never_guessed(value: Any) -> None:
    """Outside the closed set of types nothing is encoded."""
    with pytest.raises(NotCanonical):
        canonical_bytes(value)


class Typed(BaseModel):
    """Coercion decides what is equal."""

    amount: float = 0.0
    anything: Any = None
    secret: str = Field(default="", exclude=True)
    note: str = Field(default="", json_schema_extra=exclude_from_key())


def form(json: str) -> bytes:
    """Of a validated body."""
    return canonical_bytes(Typed.model_validate_json(json))


def test_one_and_one_point_zero_are_one_under_float_and_two_under_any() -> None:
    """The declared type decides."""
    assert form('{"amount": 1}') == form('{"amount": 1.0}')
    assert form('{"anything": 1}') != form('{"anything": 1.0}')


def test_a_default_that_is_sent_equals_one_that_is_not() -> None:
    """The validated input is what counts, not the body."""
    assert form('{"amount": 0, "anything": null}') == form(" {} ")


def test_a_field_that_pydantic_excludes_from_its_dump_is_part_of_the_key() -> None:
    """pydantic's dump would give two secrets one key."""
    assert form('{"secret": "a"}') != form('{"secret": "b"}')


def test_a_field_declared_out_of_the_key_is_left_out_and_the_schema_says_so() -> None:
    """Visibly, and only by declaration."""
    assert form('{"note": "a"}') == form('{"note": "b"}')
    assert Typed.model_json_schema()["properties"]["note"]["exclude_from_key"] is True


def test_two_enums_of_one_name_are_two() -> None:
    """A union of two modules' `Colour` must not mix them."""
    one = Enum("Colour", {"RED": "r"}, module="m", qualname="Colour")  # type: ignore[misc]
    other = Enum("Colour", {"RED": "R"}, module="m", qualname="Colour")  # type: ignore[misc]
    third = Enum("Colour", {"RED": "r"}, module="n", qualname="Colour")  # type: ignore[misc]
    assert len({canonical_bytes(enum["RED"]) for enum in (one, other, third)}) == 3


def test_an_enum_of_values_without_a_form_is_refused() -> None:
    """Its members could not be told apart by their values."""
    odd = Enum("Odd", {"A": object()})  # type: ignore[misc]
    schema = type("Schema", (BaseModel,), {"__annotations__": {"field": odd}})
    with pytest.raises(LossySchema, match="give A a plain value"):
        check_schema(schema)


def test_extra_fields_that_a_schema_keeps_are_part_of_the_key() -> None:
    """The model can see them."""

    class Open(BaseModel):
        model_config = ConfigDict(extra="allow")

    assert canonical_bytes(Open.model_validate({"a": 1})) != canonical_bytes(Open.model_validate({"a": 2}))


class Node(BaseModel):
    """A recursive schema."""

    children: list["Node"] = []
    when: AwareDatetime | None = None
    kind: Literal["a", 1] = "a"
    colour: Colour | None = None
    table: dict[str, tuple[int, ...]] = {}
    bounded: Annotated[float, Field(ge=0)] | None = None


@pytest.mark.parametrize("schema", [Typed, Node, Inner])
def test_a_schema_of_closed_types_is_accepted(schema: type[BaseModel]) -> None:
    """Recursion, unions, constraints and literals included."""
    check_schema(schema)


@pytest.mark.parametrize(
    ("annotation", "advice"),
    [
        (set[int], "declare a list"),
        (frozenset[str], "declare a tuple"),
        (dict[int, str], "declare the keys as `str`"),
        (SecretStr, "closed set"),
        (Path, "closed set"),
        (list[SecretStr], "closed set"),
        (dict[str, set[int]], "declare a list"),
        (int | SecretStr, "closed set"),
        (object, "closed set"),
    ],
)
def test_a_lossy_schema_is_refused_with_the_field_and_what_to_do(annotation: Any, advice: str) -> None:
    """At start, not in the middle of the night."""
    schema = type("Schema", (BaseModel,), {"__annotations__": {"field": annotation}})
    with pytest.raises(LossySchema, match=advice) as refused:
        check_schema(schema)
    assert "Schema.field" in str(refused.value)


def test_a_lossy_field_may_be_declared_out_of_the_key() -> None:
    """Then it never decides an answer."""

    class Schema(BaseModel):
        tags: set[str] = Field(default=set(), json_schema_extra=exclude_from_key())

    check_schema(Schema)
