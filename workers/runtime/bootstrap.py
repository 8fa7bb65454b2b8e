"""The child's side of a process of the server: how it starts, reports its status, and ends.

Runs in each child, after `workers.runtime.child_main`. Its channels with the supervisor:

- stdin: the role's spec as one line of JSON, then whatever the role listens for; its end means
  that the supervisor has released the child or is dead: either way the child must end;
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
from typing import TYPE_CHECKING, BinaryIO, NoReturn, TypeVar

import msgspec
from setproctitle import setproctitle

from workers.runtime.child_main import flush_c
from workers.runtime.logs import ProcessName, flush, log_settings, set_up_logging
from workers.runtime.spec import DeviceSpec
from workers.runtime.texts import abridge

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

__all__ = [
    "Failed",
    "Started",
    "StatusChannel",
    "bind_to_device",
    "follow_supervisor",
    "run_role",
]

_PR_SET_PDEATHSIG = 1
#: An error becomes one line of the status channel, whose reader accepts 64 KiB.
_MAX_ERROR_BYTES = 8000
#: Below the front-end.
_NICE = 5

_Spec = TypeVar("_Spec")


class Started(msgspec.Struct, frozen=True, tag=True):
    """The child is up: loaded, warm, connected."""


class Failed(msgspec.Struct, frozen=True, tag=True):
    """The child can't start or continue; it exits with status 1."""

    error: str


class StatusChannel:
    """The child's end of its status channel; `has_started` once it has sent `Started`."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._unsent = bytearray()
        self._lock = threading.Lock()
        self._loop: AbstractEventLoop | None = None
        self.has_started = False

    def write_from(self, loop: AbstractEventLoop) -> None:
        """From now on, never wait for the parent: the event loop, which sends, writes the rest."""
        os.set_blocking(self._fd, False)
        self._loop = loop

    def send(self, status: msgspec.Struct) -> None:
        """Write one line: the child's status, or another message that its parent waits for.

        A parent that is gone is no error: the child ends anyway.
        """
        self.has_started |= isinstance(status, Started)
        with self._lock:
            self._unsent += msgspec.json.encode(status) + b"\n"
            self._write()

    def _write(self) -> None:
        try:
            while self._unsent:
                del self._unsent[: os.write(self._fd, self._unsent)]
        except BlockingIOError:  # the parent is slow to read
            if self._loop is not None:
                self._loop.add_writer(self._fd, self._write)
            return
        except OSError:
            self._unsent.clear()
        if self._loop is not None:
            self._loop.remove_writer(self._fd)


def run_role(
    name_of: Callable[[_Spec], ProcessName],
    spec_type: type[_Spec],
    main: Callable[[_Spec, BinaryIO, StatusChannel], None],
) -> None:
    """Run a role to its end: `main` gets its spec, the rest of stdin and its status channel.

    The command line holds the descriptors of the status channel and of the log. An exception
    becomes a `Failed` line and exit status 1; the supervisor reports it if the child had not
    started yet, otherwise the log does.
    """
    with contextlib.suppress(OSError, AttributeError):  # not Linux: the end of stdin must do
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    # Signals that a terminal, or an init, sends to the whole group are for the supervisor.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    commands = os.fdopen(os.dup(0), "rb", buffering=0)
    with open(os.devnull, "rb") as nothing:  # what a model reads from stdin, or its programs
        os.dup2(nothing.fileno(), 0)
    status_fd, log_fd = map(int, sys.argv[1:3])
    status = StatusChannel(status_fd)
    spec = msgspec.json.decode(_first_line(commands), type=spec_type)
    name = name_of(spec)
    setproctitle(name.title)
    set_up_logging(name, *log_settings(os.environ), fd=log_fd)
    try:
        main(spec, commands, status)
    except BaseException as error:
        level = logging.ERROR if status.has_started else logging.DEBUG
        logging.getLogger(__name__).log(level, "the process failed", exc_info=True)
        text = str(error) or type(error).__name__
        status.send(Failed(abridge(text, _MAX_ERROR_BYTES)))
        _exit(1)
    _exit(0)


def follow_supervisor(
    commands: BinaryIO,
    on_command: Callable[[bytes], None],
    on_end: Callable[[], None] = lambda: None,
) -> None:
    """Pass on each line of stdin, and exit as soon as it ends, after `on_end`; in a thread."""

    def follow() -> None:
        with os.fdopen(commands.fileno(), "rb", closefd=False) as lines:
            for line in lines:
                if line.endswith(b"\n"):  # otherwise the supervisor died while it wrote
                    on_command(line)
        on_end()
        _exit(0)

    threading.Thread(target=follow, name="lifeline", daemon=True).start()


def bind_to_device(device: DeviceSpec) -> None:
    """Bind this process to a device, at a lower priority than the front-end's.

    To be called before any inference runtime is imported, which reads the environment.
    """
    os.nice(_NICE)
    if device.cores:
        os.sched_setaffinity(0, device.cores)
    os.environ.update(device.environment)


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
