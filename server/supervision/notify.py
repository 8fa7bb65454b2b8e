"""Tells systemd how the server is: the protocol of sd_notify, datagrams to a socket that it names.

Runs in the supervisor. What happens flows in, lines such as ``READY=1`` flow out. Without systemd
(no ``NOTIFY_SOCKET`` in the environment) nothing is sent; what can't be sent is nobody's problem.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import MutableMapping

__all__ = ["Notifier"]

_SEND_S = 0.5


class Notifier:
    """Speaks for this process, and for no other.

    Args:
        environment: of the process. The variables are taken out of it, lest children speak, too.
    """

    def __init__(self, environment: MutableMapping[str, str]) -> None:
        given = {
            name: environment.pop(name, "")
            for name in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")
        }
        address = given["NOTIFY_SOCKET"]
        # An abstract address begins with a zero byte, which environments can't hold.
        self._address = "\0" + address[1:] if address.startswith("@") else address
        usec, pid = given["WATCHDOG_USEC"], given["WATCHDOG_PID"]
        is_watched = usec.isdecimal() and pid in {"", str(os.getpid())}
        self._watchdog_s = int(usec) / 1e6 if is_watched else 0.0

    def starting(self) -> None:
        """The models are being made, inspected, placed and loaded."""
        self._tell("STATUS=starting")

    def ready(self) -> None:
        """The server takes traffic, for the first time or with what it was told to reload."""
        self._tell("READY=1", "STATUS=serving")

    def reloading(self) -> None:
        """The configuration is being read again; `ready` must follow."""
        now_us = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._tell("RELOADING=1", f"MONOTONIC_USEC={now_us}", "STATUS=reloading")

    def stopping(self) -> None:
        """The server drains, and will end."""
        self._tell("STOPPING=1", "STATUS=draining")

    async def keep_alive(self) -> None:
        """Say that the event loop comes round, twice in the time that systemd gives."""
        while self._watchdog_s:
            self._tell("WATCHDOG=1")
            await asyncio.sleep(self._watchdog_s / 2)

    def _tell(self, *lines: str) -> None:
        if not self._address:
            return
        with (
            contextlib.suppress(OSError),
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as out,
        ):
            out.settimeout(_SEND_S)
            out.sendto("\n".join(lines).encode(), self._address)
