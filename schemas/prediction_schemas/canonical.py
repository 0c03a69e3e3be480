"""The canonical form of a validated input: equal inputs give equal bytes, different inputs give different bytes.

Each value is written as a type tag, a length and the content, over a closed set of types. pydantic's dump would not do:
it writes all secrets alike, omits excluded fields, writes `b"a"` and `"a"` alike, and writes sets in any order. Two
inputs are equal if a model cannot tell them apart. `1` and `1.0` are equal in a `float` field, because validation
converts both, but differ in an `Any` field; `0.0` and `-0.0` differ. Text is not normalised.
"""

import math
import struct
from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

from pydantic import BaseModel
from pydantic.fields import FieldInfo

_KEY_EXCLUDED = "exclude_from_key"


def exclude_from_key() -> dict[str, Any]:
    """Mark a field that never changes the answer: `Field(json_schema_extra=exclude_from_key())`."""
    return {_KEY_EXCLUDED: True}


class NotCanonical(ValueError):
    """A value has no canonical form; the message says why."""


def canonical_bytes(value: Any) -> bytes:
    """Encode a validated input.

    Raises:
        NotCanonical: it contains NaN, Infinity, a lone surrogate, or a value outside the closed set of types.
    """
    out: list[bytes] = []
    _encode(value, out)
    return b"".join(out)


def _encode(value: Any, out: list[bytes]) -> None:
    encode = _ENCODERS.get(type(value))
    if encode is not None:
        encode(value, out)
    elif isinstance(value, BaseModel):
        _model(value, out)
    elif isinstance(value, Enum):
        _put(b"E", f"{_full_name(type(value))}.{value.name}".encode(), out)
        _encode(value.value, out)
    else:
        msg = f"a value of type {type(value).__qualname__} has no canonical form"
        raise NotCanonical(msg)


def _put(tag: bytes, content: bytes, out: list[bytes]) -> None:
    out.append(b"%s%d:" % (tag, len(content)))
    out.append(content)


def _float(value: float, out: list[bytes]) -> None:
    if not math.isfinite(value):
        msg = "NaN and Infinity are not allowed"
        raise NotCanonical(msg)
    out.append(b"f" + struct.pack(">d", value))


def _decimal(value: Decimal, out: list[bytes]) -> None:
    if not value.is_finite():
        msg = "NaN and Infinity are not allowed"
        raise NotCanonical(msg)
    _put(b"m", str(value).encode(), out)


def _sequence(tag: bytes) -> Callable[[Sequence[Any], list[bytes]], None]:
    def encode(value: Sequence[Any], out: list[bytes]) -> None:
        out.append(b"%s%d:" % (tag, len(value)))
        for item in value:
            _encode(item, out)

    return encode


def _mapping(value: Mapping[Any, Any], out: list[bytes]) -> None:
    if not all(type(key) is str for key in value):
        msg = "a dict must have string keys"
        raise NotCanonical(msg)
    out.append(b"d%d:" % len(value))
    for key in sorted(value):
        _put(b"s", _utf8(key), out)
        _encode(value[key], out)


def _model(value: BaseModel, out: list[bytes]) -> None:
    cls = type(value)
    names = [name for name, field in cls.model_fields.items() if not is_excluded(field)]
    _put(b"M", _full_name(cls).encode(), out)
    out.append(b"%d:" % len(names))
    for name in names:
        _put(b"s", name.encode(), out)
        _encode(getattr(value, name), out)
    _mapping(value.model_extra or {}, out)


def _full_name(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def is_excluded(field: FieldInfo) -> bool:
    """Whether a field is marked as excluded from the key."""
    extra = field.json_schema_extra
    return isinstance(extra, dict) and bool(extra.get(_KEY_EXCLUDED))


def has_live_default(field: FieldInfo) -> bool:
    """Whether a default is computed for each input, and may depend on the moment (not that of `list` and the like)."""
    factory = field.default_factory
    return factory is not None and getattr(factory, "__module__", None) != "builtins" and not is_excluded(field)


def depends_on_the_moment(value: Any) -> bool:
    """Whether a validated input holds a default that was computed for it: equal bytes may give another input later."""
    if isinstance(value, BaseModel):
        fields = type(value).model_fields
        return any(
            (name not in value.model_fields_set and has_live_default(field))
            or depends_on_the_moment(getattr(value, name))
            for name, field in fields.items()
        )
    if isinstance(value, list | tuple):
        return any(map(depends_on_the_moment, value))
    return isinstance(value, dict) and any(map(depends_on_the_moment, value.values()))


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        msg = "text with a lone surrogate is not Unicode"
        raise NotCanonical(msg) from None


_ENCODERS: dict[type, Callable[[Any, list[bytes]], None]] = {
    type(None): lambda _, out: out.append(b"n"),
    bool: lambda value, out: out.append(b"t" if value else b"F"),
    # Hexadecimal, because str() of an int fails above 4,300 digits.
    int: lambda value, out: _put(b"i", b"%x" % value, out),
    float: _float,
    str: lambda value, out: _put(b"s", _utf8(value), out),
    bytes: lambda value, out: _put(b"b", value, out),
    list: _sequence(b"l"),
    tuple: _sequence(b"u"),
    dict: _mapping,
    # isoformat() leaves out `fold`, which tells apart the two moments of a repeated wall-clock time.
    datetime: lambda value, out: _put(b"D", value.isoformat().encode() + bytes([value.fold]), out),
    date: lambda value, out: _put(b"A", value.isoformat().encode(), out),
    time: lambda value, out: _put(b"T", value.isoformat().encode() + bytes([value.fold]), out),
    timedelta: lambda value, out: _put(b"P", b"%d:%d:%d" % (value.days, value.seconds, value.microseconds), out),
    UUID: lambda value, out: _put(b"U", value.bytes, out),
    Decimal: _decimal,
}
