"""Reads protobuf's text format without knowing the messages, as in Triton's ``config.pbtxt``.

Pure. A text flows in, plain values flow out, as its JSON form has them: a field that is repeated is
a list, but one that is there once may be a list, too, if its message says so. By the text format
language specification of protobuf.dev.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

__all__ = ["TextFormatError", "parse"]

_TOKEN = re.compile(
    r"""(?P<space>[\s]+|\#[^\n]*)
    |(?P<string>"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*')
    |(?P<word>[\w.+/-]+)
    |(?P<mark>[{}\[\]<>:,;])""",
    re.VERBOSE,
)
_ESCAPE = re.compile(
    r"\\(?:x(?P<hex>[0-9A-Fa-f]{1,2})|(?P<octal>[0-7]{1,3})|u(?P<short>[0-9A-Fa-f]{4})"
    r"|U(?P<long>[0-9A-Fa-f]{8})|(?P<other>.))"
)
_SIMPLE = dict(zip("abfnrtv", "\a\b\f\n\r\t\v", strict=True))
_INTEGER = re.compile(r"[+-]?(0[xX][0-9A-Fa-f]+|0[0-7]+|\d+)")
_FLOAT = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?[fF]?")
_CLOSING = {"{": "}", "<": ">"}
_MOST_DEPTH = 64


class TextFormatError(ValueError):
    """A text is not in the format; the text says where."""


class _Token(NamedTuple):
    kind: str | None
    text: str
    line: int


def parse(text: str) -> dict[str, Any]:
    """Return the fields of a message: text, numbers, truth values, enumerators as text, messages.

    Raises:
        TextFormatError: with the line of the mistake.
    """
    return _Parser(list(_tokens(text))).message("", 0)


def _tokens(text: str) -> Iterator[_Token]:
    place, line = 0, 1
    while place < len(text):
        found = _TOKEN.match(text, place)
        if found is None:
            raise TextFormatError(f"line {line}: did not expect {text[place]!r}")
        if found.lastgroup != "space":
            yield _Token(found.lastgroup, found[0], line)
        line += found[0].count("\n")
        place = found.end()
    yield _Token(None, "", line)


class _Parser:
    """Takes tokens one by one; the last one is the end of the text."""

    def __init__(self, tokens: list[_Token]) -> None:
        self._tokens = tokens[::-1]

    def message(self, closing: str, depth: int) -> dict[str, Any]:
        """Take the fields of a message up to its closing mark, or to the end of the text."""
        if depth > _MOST_DEPTH:
            raise TextFormatError(f"line {self._next.line}: is nested too deeply")
        fields: dict[str, Any] = {}
        while not self._take(closing):
            name = self._name()
            has_colon = self._take(":")
            if not has_colon and self._next.text not in ("{", "<", "["):
                raise self._unexpected("':' or '{'")
            value = self._value(depth)
            if name in fields:
                value = [*_as_list(fields[name]), *_as_list(value)]
            fields[name] = value
            _ = self._take(",") or self._take(";")
        return fields

    @property
    def _next(self) -> _Token:
        return self._tokens[-1]

    def _take(self, text: str) -> bool:
        """Take the next token if it is this mark; the empty one is the end."""
        if self._next.text != text or self._next.kind not in ("mark", None):
            return False
        if text:
            self._tokens.pop()
        return True

    def _name(self) -> str:
        is_extension = self._take("[")
        if self._next.kind != "word":
            raise self._unexpected("the name of a field")
        name = self._tokens.pop().text
        if is_extension and not self._take("]"):
            raise self._unexpected("']'")
        return name

    def _value(self, depth: int) -> Any:
        if self._take("["):
            return self._list(depth)
        for opening, closing in _CLOSING.items():
            if self._take(opening):
                return self.message(closing, depth + 1)
        if self._next.kind == "string":
            return self._string()
        if self._next.kind == "word":
            return _scalar(self._tokens.pop().text)
        raise self._unexpected("a value")

    def _list(self, depth: int) -> list[Any]:
        values: list[Any] = []
        if self._take("]"):
            return values
        while True:
            if self._next.text == "[":
                raise self._unexpected("a value")
            values.append(self._value(depth))
            if self._take("]"):
                return values
            if not self._take(","):
                raise self._unexpected("',' or ']'")
            if self._take("]"):  # Triton's own examples have a comma at the end
                return values

    def _string(self) -> str:
        """Take strings that follow each other: they are one."""
        pieces = []
        line = self._next.line
        while self._next.kind == "string":
            pieces.append(self._tokens.pop().text[1:-1])
        try:
            return b"".join(map(_unescaped, pieces)).decode()
        except (ValueError, OverflowError):  # no such character
            raise TextFormatError(f"line {line}: a string is not text") from None

    def _unexpected(self, wanted: str) -> TextFormatError:
        found = repr(self._next.text) if self._next.text else "the end"
        return TextFormatError(f"line {self._next.line}: expected {wanted}, not {found}")


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _scalar(word: str) -> str | int | float | bool:
    """A word's value; what is no number is an enumerator."""
    if word in ("true", "True", "t"):
        return True
    if word in ("false", "False", "f"):
        return False
    if _INTEGER.fullmatch(word):
        digits = word.lstrip("+-")
        base = 16 if digits[:2] in ("0x", "0X") else 8 if digits[0] == "0" else 10
        return int(word, base)
    return float(word.rstrip("fF")) if _FLOAT.fullmatch(word) else word


def _unescaped(text: str) -> bytes:
    def byte_or_character(found: re.Match[str]) -> str:
        if (code := found["hex"]) is not None:
            return chr(0xDC00 + int(code, 16)) if int(code, 16) > 0x7F else chr(int(code, 16))
        if (code := found["octal"]) is not None:
            value = int(code, 8) & 0xFF
            return chr(0xDC00 + value) if value > 0x7F else chr(value)
        if code := found["short"] or found["long"]:
            return chr(int(code, 16))
        return _SIMPLE.get(found["other"], found["other"])

    # Single bytes beyond ASCII stand as lone surrogates until all are put together.
    return _ESCAPE.sub(byte_or_character, text).encode(errors="surrogateescape")
