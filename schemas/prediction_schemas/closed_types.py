"""Checks that an input schema has a canonical form: the type of every field is in a closed set of types."""

import types
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, Literal, Union, get_args, get_origin
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, FutureDate, FutureDatetime, NaiveDatetime, PastDate, PastDatetime
from pydantic.fields import FieldInfo

from prediction_schemas.canonical import NotCanonical, canonical_bytes, has_live_default, is_excluded

_SCALARS = (type(None), bool, int, float, str, bytes, datetime, date, time, timedelta, UUID, Decimal)
# Pydantic's constrained types whose values are plain dates.
_DATE_RULES = (
    AwareDatetime,
    NaiveDatetime,
    PastDatetime,
    FutureDatetime,
    PastDate,
    FutureDate,
)


class LossySchema(TypeError):
    """A field of an input schema cannot be encoded without loss; the message says what to do."""


def check_schema(model: type[BaseModel]) -> None:
    """Refuse an input schema for which different inputs could have the same canonical form.

    Raises:
        LossySchema: the message names the field and what to declare instead.
    """
    _check_model(model, model.__name__, set())


def any_live_default(model: type[BaseModel]) -> bool:
    """Whether a field of the schema, at any depth, has a default that is computed for each input."""
    found: list[str] = []
    _walk(model, set(), found)
    return bool(found)


def _walk(annotation: Any, seen: set[Any], found: list[str]) -> None:
    annotation = getattr(annotation, "__value__", annotation)
    for part in get_args(annotation):
        _walk(part, seen, found)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel) and annotation not in seen:
        seen.add(annotation)
        for name, field in annotation.model_fields.items():
            if has_live_default(field):
                found.append(name)
            _walk(field.annotation, seen, found)


def _check_model(model: type[BaseModel], path: str, seen: set[type]) -> None:
    if model in seen:
        return
    seen.add(model)
    for name, field in model.model_fields.items():
        if not is_excluded(field):
            _check(field.annotation, f"{path}.{name}", seen)
            if has_live_default(field):
                _check_default(field, f"{path}.{name}")


def _check_default(field: FieldInfo, path: str) -> None:
    """Refuse a default that differs at each call, such as a random id: no request that leaves it out could ever hit."""
    try:
        first, second = (canonical_bytes(field.get_default(call_default_factory=True)) for _ in range(2))
    except Exception:  # noqa: BLE001 - it needs other fields, or fails: then it shows at the first request
        return
    if first != second:
        msg = (
            f"{path}: its default_factory gives another value each time, so no such request is ever answered from the "
            "cache; exclude the field from the key (exclude_from_key), or make the value in the model"
        )
        raise LossySchema(msg)


def _check(annotation: Any, path: str, seen: set[type]) -> None:
    annotation = getattr(annotation, "__value__", annotation)  # a `type X = ...` alias
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is dict and arguments[0] is not str and not _is_string_alias(arguments[0]):
        raise _lossy(path, annotation, "declare the keys as `str`")
    if origin is not None:
        if origin not in (Annotated, Literal, Union, types.UnionType, list, tuple, dict):
            raise _lossy(path, annotation, _ADVICE.get(origin, _GENERAL_ADVICE))
        for part in _parts(origin, arguments):
            _check(part, path, seen)
    elif isinstance(annotation, type) and issubclass(annotation, BaseModel):
        _check_model(annotation, path, seen)
    elif isinstance(annotation, type) and issubclass(annotation, Enum):
        _check_enum(annotation, path)
    elif not _is_closed(annotation):
        raise _lossy(path, annotation, _ADVICE.get(annotation, _GENERAL_ADVICE))


def _parts(origin: Any, arguments: tuple[Any, ...]) -> list[Any]:
    """The types inside a generic type that must have a canonical form themselves."""
    if origin is Annotated:
        return [arguments[0]]
    if origin is Literal:
        return [type(argument) for argument in arguments]
    return [argument for argument in arguments if argument is not Ellipsis]


def _is_closed(annotation: Any) -> bool:
    return annotation is Any or annotation in (*_SCALARS, None, *_DATE_RULES, list, tuple, dict)


def _check_enum(enum: type[Enum], path: str) -> None:
    for member in enum:
        try:
            canonical_bytes(member.value)
        except NotCanonical:
            raise _lossy(path, enum, f"give {member.name} a plain value, such as a string") from None


def _is_string_alias(annotation: Any) -> bool:
    return get_origin(annotation) is Annotated and get_args(annotation)[0] is str


_GENERAL_ADVICE = "use a type of the closed set (prediction_schemas.closed_types), or exclude the field from the key"
_ADVICE: dict[Any, str] = {
    set: "sets have no order: declare a list, sorted by a validator",
    frozenset: "sets have no order: declare a tuple, sorted by a validator",
}


def _lossy(path: str, annotation: Any, advice: str) -> LossySchema:
    shown = getattr(annotation, "__name__", None) if get_origin(annotation) is None else None
    return LossySchema(f"{path}: {shown or annotation} cannot be part of a cache key without loss; {advice}")
