"""Turns pydantic's validation errors into lines that name the key and the fix.

Runs in the process that reads the configuration file; validation errors flow in, lines of text
flow out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from server.config.base import did_you_mean

__all__ = ["describe"]

_MESSAGES = {
    "missing": "is required",
    "dict_type": "should be a mapping",
    "model_type": "should be a mapping",
    "tuple_type": "should be a list",
    "list_type": "should be a list",
    "string_type": "should be text (numbers and booleans need quotes)",
    "int_type": "should be a whole number",
    "int_parsing": "should be a whole number",
    "int_from_float": "should be a whole number",
    "float_type": "should be a number",
    "float_parsing": "should be a number",
    "byte_size": "should be a number of bytes, such as 4096 or 256MiB",
    "byte_size_unit": "should be a number of bytes, such as 4096 or 256MiB",
    "too_short": "should not be empty",
}

#: Values in this section are never repeated: people paste keys in wrong places.
_SECRET = "api_keys"

Location = tuple[int | str, ...]


def describe(
    error: ValidationError, root: Any, *, is_secret: bool = False
) -> Iterator[tuple[Location, str]]:
    """Yield the location and a one-line description of each problem.

    Args:
        error: what validation raised.
        root: the validated type, whose fields are suggested for unknown keys.
        is_secret: leave values out of all messages; those of API keys always are.
    """
    seen = set()
    for detail in error.errors(include_url=False):
        if detail["type"] == "too_short" and detail["input"]:
            continue  # its elements are reported themselves
        # Tags of unions (`<file>`) and `[key]` are pydantic's, not part of the document.
        location = tuple(p for p in detail["loc"] if not str(p).startswith(("<", "[")))
        text = _message(detail, location, root, is_secret or _SECRET in location)
        for line in text.splitlines():
            # One number that stands for three channels is one problem.
            place = location[:-1] if location and isinstance(location[-1], int) else location
            if (place, line) not in seen:
                yield location, line
            seen.add((place, line))


def _message(detail: ErrorDetails, location: Location, root: Any, is_secret: bool) -> str:
    kind, value = detail["type"], detail["input"]
    if kind == "extra_forbidden":
        keys = _keys_at(root, location[:-1])
        return "unknown key" + (
            did_you_mean(str(location[-1]), keys) or f", the keys here are {', '.join(keys)}"
        )
    if kind == "value_error":
        return detail["msg"].removeprefix("Value error, ")
    text = _MESSAGES.get(kind) or detail["msg"].removeprefix("Input ").removeprefix("Value ")
    if kind == "missing" or is_secret or not isinstance(value, str | int | float | None):
        return text
    text += f", not {'empty' if value is None else repr(value)}"
    if kind == "literal_error" and isinstance(value, str):
        choices = detail["ctx"]["expected"].replace(" or ", ", ").split(", ")
        text += did_you_mean(value, [choice.strip("'") for choice in choices])
    return text


def _keys_at(root: Any, location: Location) -> list[str]:
    """Return the valid keys of the section at a location."""
    annotations: list[Any] = [root]
    for part in location:
        annotations = [inner for outer in annotations for inner in _step(outer, part)]
    models = [a for outer in annotations for a in _alternatives(outer) if _is_model(a)]
    return [key for model in models for key in model.model_fields]


def _step(annotation: Any, part: int | str) -> Iterator[Any]:
    for choice in _alternatives(annotation):
        arguments = get_args(choice)
        if _is_model(choice):
            if part in choice.model_fields:
                yield choice.model_fields[part].annotation
        elif get_origin(choice) is dict:
            yield arguments[1]
        elif get_origin(choice) is tuple:
            yield arguments[0]


def _alternatives(annotation: Any) -> Sequence[Any]:
    origin = get_origin(annotation)
    if origin is Annotated:
        return _alternatives(get_args(annotation)[0])
    if origin is Union or type(annotation).__name__ == "UnionType":
        return [a for choice in get_args(annotation) for a in _alternatives(choice)]
    return [annotation]


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)
