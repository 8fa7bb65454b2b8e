"""An alarm for an event loop that is more exact than its timers. Runs in each load process.

Event loops wake at whole milliseconds, which is long where answers take one. A timer file
descriptor of Linux is exact to some 0.1 ms without spinning; elsewhere the loop's timers serve.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import sys
import time
from collections.abc import Callable

from ensembled_client.load.lag import Alarm

__all__ = ["LoopAlarm", "TimerAlarm", "new_alarm"]

_CLOCK_MONOTONIC = 1
_ABSOLUTE = 1
_SECOND_NS = 1_000_000_000


class _Spec(ctypes.Structure):
    """The C struct itimerspec."""

    _fields_ = (
        ("interval_s", ctypes.c_long),
        ("interval_ns", ctypes.c_long),
        ("value_s", ctypes.c_long),
        ("value_ns", ctypes.c_long),
    )


def new_alarm(callback: Callable[[], None]) -> Alarm:
    """Return the most exact alarm there is for the running loop."""
    if sys.platform == "linux":
        try:
            return TimerAlarm(callback)
        except (OSError, AttributeError):  # a kernel or C library without it
            pass
    return LoopAlarm(callback)


class TimerAlarm:
    """An alarm by a timer file descriptor.

    Raises:
        OSError: if there is none to be had.
        AttributeError: if the C library has no such function.
    """

    def __init__(self, callback: Callable[[], None]) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._settime = self._libc.timerfd_settime
        self._file: int = self._libc.timerfd_create(_CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
        if self._file < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create")
        self._callback = callback
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._file, self._ring)

    def set(self, at_ns: int) -> None:
        """Call back at that time; at once if it is past."""
        seconds, nanoseconds = divmod(max(at_ns, 1), _SECOND_NS)
        spec = _Spec(0, 0, seconds, nanoseconds)
        self._settime(self._file, _ABSOLUTE, ctypes.byref(spec), None)

    def _ring(self) -> None:
        try:
            os.read(self._file, 8)
        except BlockingIOError:  # set anew between the event and now
            return
        self._callback()

    def close(self) -> None:
        """Give the file descriptor back."""
        if self._file >= 0:
            self._loop.remove_reader(self._file)
            os.close(self._file)
            self._file = -1


class LoopAlarm:
    """An alarm by the loop's own timer, late by up to a millisecond."""

    def __init__(self, callback: Callable[[], None]) -> None:
        self._callback = callback
        self._loop = asyncio.get_running_loop()
        self._handle: asyncio.TimerHandle | None = None

    def set(self, at_ns: int) -> None:
        """Call back at that time; at once if it is past."""
        self.close()
        self._handle = self._loop.call_later(
            max(0, at_ns - time.monotonic_ns()) / _SECOND_NS, self._callback
        )

    def close(self) -> None:
        """Forget the wish."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
