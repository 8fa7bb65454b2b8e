"""What is wrong with a configuration, in lines for people that name the key and the fix.

Runs in the process that reads the configuration; pydantic's validation errors flow in, lines flow
out, a line per problem.
"""

from __future__ import annotations

from collections.abc import Container, Iterator

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from server.config.base import UnknownKey
from server.config.environment import NESTED, PREFIX
from server.errors import did_you_mean

__all__ = ["describe", "problem_lines"]

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
    "path_type": "should be a path",
    "byte_size": "should be a number of bytes, such as 4096 or 256MiB",
    "byte_size_unit": "should be a number of bytes, such as 4096 or 256MiB",
    "too_short": "should not be empty",
}

#: Values in this section are never repeated: people paste keys in wrong places.
_SECRET = "api_keys"

Location = tuple[int | str, ...]


def problem_lines(
    error: ValidationError, source: str, *, overrides: Container[str] = (), is_secret: bool = False
) -> Iterator[str]:
    """Yield ``SOURCE: KEY: PROBLEM`` for each problem, or the variable that overrides its key."""
    for location, message in describe(error, is_secret=is_secret):
        if len(location) > 1 and location[0] == "server" and location[1] in overrides:
            name = f"{PREFIX}SERVER{NESTED}{str(location[1]).upper()}"
            yield f"environment: {name}: {message}"
        else:
            yield ": ".join(filter(None, (source, ".".join(map(str, location)), message)))


def describe(error: ValidationError, *, is_secret: bool = False) -> Iterator[tuple[Location, str]]:
    """Yield the location and a one-line description of each problem.

    Values are left out of the messages if `is_secret`; those of API keys always are.
    """
    seen = set()
    for detail in error.errors(include_url=False):
        if detail["type"] == "too_short" and detail["input"]:
            continue  # its elements are reported themselves
        # Tags of unions (`<file>`) and `[key]` are pydantic's, not part of the document.
        location = tuple(p for p in detail["loc"] if not str(p).startswith(("<", "[")))
        text = _message(detail, location, is_secret or _SECRET in location)
        for line in text.splitlines():
            # One number that stands for three channels is one problem.
            place = location[:-1] if location and isinstance(location[-1], int) else location
            if (place, line) not in seen:
                yield location, line
            seen.add((place, line))


def _message(detail: ErrorDetails, location: Location, is_secret: bool) -> str:
    kind, value = detail["type"], detail["input"]
    if isinstance(value, UnknownKey):
        keys = value.valid_keys
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
