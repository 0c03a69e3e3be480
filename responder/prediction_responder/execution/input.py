"""Reads a body into a validated input. Every problem of a body is found here, at low cost."""

import re
from itertools import islice
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import from_json, to_json

from prediction_responder.messages import Refused
from prediction_schemas import Code

_STRINGS = re.compile(rb'"[^"]*"?')
_NEITHER_BRACKET_NOR_QUOTE = bytes(set(range(256)) - set(b'[]{}"'))
_ONE_KIND = bytes.maketrans(b"{}", b"[]")
_RUNS = re.compile(rb"\[+|\]+")
_OPEN = ord("[")
_FEW_RUNS = 20_000
_MAX_DETAILS = 20
MAX_VALUES = 32_768
_MANY, _FEW = 1_000, 10


def read_input(body: bytes, model: type[BaseModel], *, max_depth: int, max_values: int = MAX_VALUES) -> BaseModel:
    """Parse and validate a body.

    Args:
        max_depth: the maximum nesting.
        max_values: the maximum number of JSON values; this, more than the number of bytes, decides its cost.

    Raises:
        Refused: 400 INVALID_ARGUMENT, with the fields at fault in its details.
    """
    if has_more_values_than(body, max_values):
        raise Refused(Code.INVALID_ARGUMENT, f"the body holds more than {max_values} values")
    if is_deeper_than(body, max_depth):
        raise Refused(Code.INVALID_ARGUMENT, f"the body is nested more than {max_depth} deep")
    try:
        # pydantic's validate_json would take NaN and Infinity, which are not JSON.
        from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise Refused(Code.INVALID_ARGUMENT, f"the body is not a UTF-8 JSON value: {error}") from None
    try:
        return model.model_validate_json(body, by_alias=True, by_name=True)
    except ValidationError as error:
        raise _schema_refusal(error, body, model) from None


def _schema_refusal(error: ValidationError, body: bytes, model: type[BaseModel]) -> Refused:
    count = error.error_count()
    if count > _MANY:  # listing them all costs more than finding them, so list those of a shortened body
        try:
            model.model_validate_json(to_json(_beginning_of(from_json(body))), by_alias=True, by_name=True)
        except ValidationError as of_the_beginning:
            error = of_the_beginning
        if error.error_count() > _MANY:
            return Refused(Code.INVALID_ARGUMENT, f"{count} fields do not fit the schema")
    problems = [
        {"field": ".".join(map(str, one["loc"])), "problem": one["msg"]}
        for one in error.errors(include_url=False, include_input=False, include_context=False)
    ]
    first = problems[0]
    more = f" (and {count - 1} more)" if count > 1 else ""
    return Refused(
        Code.INVALID_ARGUMENT,
        f"{first['field'] or 'body'}: {first['problem']}{more}",
        {"fields": problems[:_MAX_DETAILS]},
    )


def _beginning_of(value: Any) -> Any:
    """A JSON value with each list and object cut to its first few items."""
    if isinstance(value, list):
        return [_beginning_of(item) for item in value[:_FEW]]
    if isinstance(value, dict):
        return {name: _beginning_of(item) for name, item in islice(value.items(), _FEW)}
    return value


def has_more_values_than(body: bytes, max_values: int) -> bool:
    """Whether JSON holds more than `max_values` values, without parsing it. For broken JSON either answer may come."""
    if body.count(b",") + body.count(b"[") + body.count(b"{") < max_values:
        return False
    if body.count(b'"') - body.count(rb"\"") > 4 * max_values:  # a value and its name have four quotes
        return True
    bare = _STRINGS.sub(b"", _remove_escapes(body))
    return bare.count(b",") + bare.count(b"[") + bare.count(b"{") >= max_values


def _remove_escapes(body: bytes) -> bytes:
    """Remove escaped backslashes and quotes: every quote left begins or ends a string."""
    return body.replace(rb"\\", b"").replace(rb"\"", b"")


def is_deeper_than(body: bytes, max_depth: int) -> bool:
    """Whether JSON is nested more than `max_depth` deep, without parsing it and without recursion.

    Each pass removes the innermost brackets at C speed, until few enough runs of brackets are left to count them one
    by one; so a hostile megabyte costs milliseconds. For broken JSON either answer may come: the parser refuses it.
    """
    if body.count(b"[") + body.count(b"{") <= max_depth:
        return False
    # Two adjacent quotes are an empty string, or the end of one string and the start of the next. Removing them keeps
    # the content of strings inside quotes in both cases.
    body = _remove_escapes(body).translate(_ONE_KIND, _NEITHER_BRACKET_NOR_QUOTE)
    brackets = _STRINGS.sub(b"", body.replace(b'""', b""))
    removed = 0
    while brackets.count(b"[]") > _FEW_RUNS:
        brackets = brackets.replace(b"[]", b"")
        removed += 1
    depth = deepest = 0
    for run in _RUNS.finditer(brackets):
        length = run.end() - run.start()
        depth += length if brackets[run.start()] == _OPEN else -length
        deepest = max(deepest, depth)
    return removed + deepest > max_depth
