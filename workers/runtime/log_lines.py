"""How a log record looks on stderr: a line for people, or a line of JSON.

Used in every process of the server; pure. Records of `logging` flow in, text without a newline at
its end flows out. Messages quote what clients and models say, so whatever could start a line of its
own or move a terminal's cursor is escaped: a line that begins with a time is one of ours.
"""

from __future__ import annotations

import json
import logging
import time
from typing import Any, NamedTuple

__all__ = ["MAX_BYTES", "HumanFormatter", "JsonFormatter", "Speaker", "printable"]

#: A pipe takes so much at once or not at all (PIPE_BUF): lines of several processes never mix.
MAX_BYTES = 4096
_INDENT = "    "
#: What every record has; the others were given with `extra` and are told.
_USUAL = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "color_message"}


class Speaker(NamedTuple):
    """The process that speaks.

    Attributes:
        role: ``supervisor``, ``front-end``, ``combiner``, ``worker`` or ``profiler``.
        subject: a worker's device, a profiler's member.
    """

    role: str
    subject: str = ""

    @property
    def title(self) -> str:
        """What the process is called."""
        words = ("ensembled", "" if self.role == "supervisor" else self.role, self.subject)
        return " ".join(filter(None, words))


def printable(text: str) -> str:
    """Escape whatever is no printable character: newlines, colours, marks that turn text round."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


class HumanFormatter(logging.Formatter):
    """``2026-11-21 19:05:12,123 WARNING ensembled worker cpu:0: text key=value``.

    The lines of a traceback follow, indented.
    """

    def __init__(self, speaker: Speaker) -> None:
        super().__init__()
        self._title = speaker.title

    def format(self, record: logging.LogRecord) -> str:
        """A line, and those of its traceback."""
        head = f"{self.formatTime(record)} {record.levelname} {self._title}: "
        text = printable(_message(record))
        extras = "".join(f" {key}={_value(value)}" for key, value in _extras(record).items())
        lines = [_cut(head + text, MAX_BYTES - 1 - len(extras.encode())) + extras]
        for line in _exception(self, record).split("\n"):
            if line:
                lines.append(_cut(_INDENT + printable(line), MAX_BYTES - 1))
        return "\n".join(lines)


class JsonFormatter(logging.Formatter):
    """One object: time, level, role, device, pid, logger, message, what else is known, exception.

    It is plain ASCII.
    """

    def __init__(self, speaker: Speaker) -> None:
        super().__init__()
        self._speaker = {"role": speaker.role}
        if speaker.role == "worker":
            self._speaker["device"] = speaker.subject

    def format(self, record: logging.LogRecord) -> str:
        """A line."""
        seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        document = {
            **_extras(record),
            "time": f"{seconds}.{int(record.msecs):03d}Z",
            "level": record.levelname,
            **self._speaker,
            "pid": record.process,
            "logger": record.name,
            "message": _message(record),
        }
        if exception := _exception(self, record):
            document["exception"] = exception
        return _fit(document)


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception:  # the arguments don't fit: what was meant is better than nothing
        return f"{record.msg} {record.args}"


def _extras(record: logging.LogRecord) -> dict[str, Any]:
    return {key: value for key, value in vars(record).items() if key not in _USUAL and value != ""}


def _exception(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    text = formatter.formatException(record.exc_info) if record.exc_info else ""
    return text + (f"\n{formatter.formatStack(record.stack_info)}" if record.stack_info else "")


def _value(value: Any) -> str:
    """A value for people, which can't be taken for the next key."""
    text = str(value)[: MAX_BYTES // 8]
    plain = text.isprintable() and not set(text) & set(" =\"'")
    return text if plain else json.dumps(text)


def _cut(text: str, nbytes: int) -> str:
    encoded = text.encode(errors="backslashreplace")
    if len(encoded) <= nbytes:
        return text
    return encoded[: max(nbytes - 3, 0)].decode(errors="ignore") + "..."


def _fit(document: dict[str, Any]) -> str:
    """The document in JSON, its longest texts cut until it fits; of a traceback the end stays."""
    line = _dump(document)
    while len(line) > MAX_BYTES - 1:
        key = max(document, key=lambda key: len(_dump(document[key])))
        text = document[key] if isinstance(document[key], str) else _dump(document[key])
        half = len(text) // 2
        document[key] = f"...{text[-half:]}" if key == "exception" else f"{text[:half]}..."
        line = _dump(document)
    return line


def _dump(value: Any) -> str:
    return json.dumps(value, default=str)
