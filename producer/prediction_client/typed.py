"""Conversion of a model's output to the type that the caller asks for."""

from functools import lru_cache
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError
from pydantic_core import to_json

from prediction_client.errors import PredictionError

T = TypeVar("T")
Output = type[T] | TypeAdapter[T]


def adapter_of(output: Any) -> TypeAdapter[Any] | None:
    """The adapter that reads answers as a type: a pydantic model, any type that pydantic knows, or a `TypeAdapter`.

    Raises:
        PydanticSchemaGenerationError: pydantic does not know the type.
    """
    if output is None or isinstance(output, TypeAdapter):
        return output
    try:
        return _adapter(output)
    except TypeError:  # the type cannot be hashed, so it cannot be cached
        return TypeAdapter(output)


def convert(value: Any, adapter: TypeAdapter[Any] | None, output: Any) -> Any:
    """Convert a JSON value to the adapter's type; without an adapter, return it unchanged.

    Fields are read by name and by alias. Strict types are validated in pydantic's JSON mode.

    Raises:
        PredictionError: with the code MALFORMED_REPLY; the value does not match the type.
    """
    if adapter is None:
        return value
    try:
        return adapter.validate_json(to_json(value), by_alias=True, by_name=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"])) or "answer"
        msg = f"the answer does not match {getattr(output, '__name__', output)}: {where}: {first['msg']}"
        raise PredictionError(msg, code="MALFORMED_REPLY") from None


@lru_cache(maxsize=256)
def _adapter(output: Any) -> TypeAdapter[Any]:
    return TypeAdapter(output)
