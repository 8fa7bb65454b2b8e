"""How every child process of the server starts and ends.

Runs in each child, after `workers.runtime.child_main`. Its channel with the supervisor:

- stdin: the role's spec as one line of JSON, then whatever the role listens for; its end means
  that the supervisor has let go of the child, or is dead: either way the child must end;
- the descriptor that is its first argument: status lines (`Started` or `Failed`);
- the descriptor that is its second argument: the log. What libraries print on stdout and stderr is
  read by the supervisor, which logs it.

On Linux the kernel also kills the child when the supervisor dies, so that not even a child that
is stuck inside a prediction is orphaned.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import BinaryIO, NoReturn, TypeVar

import msgspec
from setproctitle import setproctitle

from workers.runtime.child_main import flush_c
from workers.runtime.log_lines import Speaker
from workers.runtime.logs import flush, set_up_logging, settings_of

__all__ = ["Failed", "Started", "Status", "end_with_supervisor", "run_role"]

_PR_SET_PDEATHSIG = 1
#: What is told of an error is a line of the status channel, whose reader takes 64 KiB of one.
_MAX_ERROR = 8000

_Spec = TypeVar("_Spec")


class Started(msgspec.Struct, frozen=True, tag=True):
    """The child is up: loaded, warm, connected."""


class Failed(msgspec.Struct, frozen=True, tag=True):
    """The child can't start or go on; it exits with status 1."""

    error: str


class Status:
    """The child's end of its status channel.

    Attributes:
        has_started: whether it has said so.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.has_started = False

    def send(self, status: msgspec.Struct) -> None:
        """Write one line: of the child's status, or what else its parent waits for.

        A parent that is gone is no error: the child ends anyway.
        """
        self.has_started |= isinstance(status, Started)
        with contextlib.suppress(OSError):
            self._stream.write(msgspec.json.encode(status) + b"\n")
            self._stream.flush()


def run_role(
    speaker: Callable[[_Spec], Speaker],
    spec_type: type[_Spec],
    main: Callable[[_Spec, BinaryIO, Status], None],
) -> None:
    """Run a role to its end: `main` gets its spec, the rest of stdin and its status channel.

    The descriptors of the status channel and of the log are the arguments of the command line.
    In the list of processes and in the log it is called what its `speaker` says. An exception
    becomes a `Failed` line and exit status 1. The supervisor tells of it if the child was not up
    yet, later the log does.
    """
    _die_with_parent()
    # What a terminal, or an init, sends to the whole group is the supervisor's.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    commands = os.fdopen(os.dup(0), "rb", buffering=0)
    status_fd, log_fd = map(int, sys.argv[1:3])
    status = Status(os.fdopen(status_fd, "wb"))
    spec = msgspec.json.decode(_first_line(commands), type=spec_type)
    name = speaker(spec)
    setproctitle(name.title)
    set_up_logging(name, *settings_of(os.environ), fd=log_fd)
    try:
        main(spec, commands, status)
    except BaseException as error:
        level = logging.ERROR if status.has_started else logging.DEBUG
        logging.getLogger(__name__).log(level, "the process failed", exc_info=True)
        status.send(Failed((str(error) or type(error).__name__)[:_MAX_ERROR]))
        _exit(1)
    _exit(0)


def end_with_supervisor(commands: BinaryIO, on_end: Callable[[], None] = lambda: None) -> None:
    """Exit as soon as stdin ends. For roles with no commands to hear.

    Args:
        commands: stdin.
        on_end: puts away what there is, from a thread of its own.
    """

    def wait() -> None:
        while commands.read(4096):
            pass
        on_end()
        _exit(0)

    threading.Thread(target=wait, name="lifeline", daemon=True).start()


def _exit(code: int) -> NoReturn:
    flush()
    flush_c()
    os._exit(code)


def _first_line(stream: BinaryIO) -> bytes:
    line = bytearray()
    while not line.endswith(b"\n"):
        byte = stream.read(1)  # unbuffered: what follows belongs to the role
        if not byte:
            os._exit(0)
        line += byte
    return bytes(line)


def _die_with_parent() -> None:
    with contextlib.suppress(OSError, AttributeError):  # not Linux: stdin's end must do
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
