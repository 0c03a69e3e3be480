"""A model's output as the type that the caller asks for."""

from functools import lru_cache
from typing import Any

from pydantic import TypeAdapter, ValidationError
from pydantic_core import to_json

from prediction_client.errors import PredictionError


def adapter_of(output: Any) -> TypeAdapter[Any] | None:
    """What reads answers as a type: a pydantic model, any other type that pydantic knows, or a `TypeAdapter`.

    Raises:
        PydanticSchemaGenerationError: pydantic does not know the type.
    """
    if output is None or isinstance(output, TypeAdapter):
        return output
    try:
        return _adapter(output)
    except TypeError:  # it cannot be hashed
        return TypeAdapter(output)


def typed(value: Any, adapter: TypeAdapter[Any] | None, output: Any) -> Any:
    """A JSON value as what `adapter` was made of; unchanged where there is none.

    Its fields are found by their names and by their aliases, and strict types are read as JSON has them.

    Raises:
        PredictionError: with the code MALFORMED_REPLY; it does not fit.
    """
    if adapter is None:
        return value
    try:
        return adapter.validate_json(to_json(value), by_alias=True, by_name=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"])) or "answer"
        msg = f"the answer is no {getattr(output, '__name__', output)}: {where}: {first['msg']}"
        raise PredictionError(msg, code="MALFORMED_REPLY") from None


@lru_cache(maxsize=256)
def _adapter(output: Any) -> TypeAdapter[Any]:
    return TypeAdapter(output)
