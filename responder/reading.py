"""From raw body bytes to a validated input. Everything that is wrong with a body is found here, cheaply."""

import re
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import from_json

from schemas import Code

_STRINGS = re.compile(rb'"[^"]*"?')
_NEITHER_BRACKET_NOR_QUOTE = bytes(set(range(256)) - set(b'[]{}"'))
_ONE_KIND = bytes.maketrans(b"{}", b"[]")
_RUNS = re.compile(rb"\[+|\]+")
_OPEN = ord("[")
_FEW_RUNS = 20_000
_MAX_DETAILS = 20


class Refused(Exception):
    """A request that is answered with an error and never reaches the model."""

    def __init__(self, code: Code, message: str, details: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.details = details or {}


def read_input(body: bytes, model: type[BaseModel], *, max_depth: int) -> BaseModel:
    """Parse and validate a body.

    Raises:
        Refused: 400 INVALID_ARGUMENT, with the fields at fault in its details.
    """
    if is_deeper_than(body, max_depth):
        raise Refused(Code.INVALID_ARGUMENT, f"the body is nested more than {max_depth} deep")
    try:
        # pydantic's validate_json would take NaN and Infinity, which are not JSON.
        from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise Refused(Code.INVALID_ARGUMENT, f"the body is not a UTF-8 JSON value: {error}") from None
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        raise _schema_refusal(error) from None


def _schema_refusal(error: ValidationError) -> Refused:
    problems = [
        {"field": ".".join(map(str, one["loc"])), "problem": one["msg"]}
        for one in error.errors(include_url=False, include_input=False, include_context=False)
    ]
    first = problems[0]
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return Refused(
        Code.INVALID_ARGUMENT,
        f"{first['field'] or 'body'}: {first['problem']}{more}",
        {"fields": problems[:_MAX_DETAILS]},
    )


def is_deeper_than(body: bytes, max_depth: int) -> bool:
    """Whether JSON is nested more than `max_depth` deep, found without parsing it and without recursion.

    Each pass removes the innermost brackets at C speed, until few enough runs of brackets are left to count them one
    by one; so a hostile megabyte costs milliseconds. Broken JSON may be called deep or not: the parser refuses it.
    """
    if body.count(b"[") + body.count(b"{") <= max_depth:
        return False
    # Without escapes a quote is a quote. Two quotes side by side are an empty string, or the end of one and the
    # beginning of the next: either way what is inside stays inside.
    unescaped = body.replace(rb"\\", b"").replace(rb"\"", b"").translate(_ONE_KIND, _NEITHER_BRACKET_NOR_QUOTE)
    brackets = _STRINGS.sub(b"", unescaped.replace(b'""', b""))
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
