"""Notifies systemd of the server's state: the sd_notify protocol, datagrams to `NOTIFY_SOCKET`.

Runs in the supervisor. State changes flow in, lines such as ``READY=1`` flow out. Without systemd
(no ``NOTIFY_SOCKET`` in the environment) nothing is sent; failures to send are ignored.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import MutableMapping

__all__ = ["SystemdNotifier"]

_SEND_S = 0.5


class SystemdNotifier:
    """Notifies systemd on behalf of this process.

    The variables are removed from `environment`, so that no child inherits them.
    """

    def __init__(self, environment: MutableMapping[str, str]) -> None:
        address, usec, pid = (
            environment.pop(name, "") for name in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")
        )
        # An abstract address begins with a zero byte, which environments can't hold.
        self._address = "\0" + address[1:] if address.startswith("@") else address
        is_watched = usec.isdecimal() and pid in {"", str(os.getpid())}
        self._watchdog_s = int(usec) / 1e6 if is_watched else 0.0

    def starting(self) -> None:
        """Models are being built, inspected, placed and loaded."""
        self._send("STATUS=starting")

    def ready(self) -> None:
        """The server accepts traffic, for the first time or after a reload."""
        self._send("READY=1", "STATUS=serving")

    def reloading(self) -> None:
        """The configuration is being reloaded; `ready` must follow."""
        now_us = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._send("RELOADING=1", f"MONOTONIC_USEC={now_us}", "STATUS=reloading")

    def stopping(self) -> None:
        """The server drains, and will exit."""
        self._send("STOPPING=1", "STATUS=draining")

    async def keep_alive(self) -> None:
        """Feed the watchdog from the event loop, twice per interval."""
        while self._watchdog_s:
            self._send("WATCHDOG=1")
            await asyncio.sleep(self._watchdog_s / 2)

    def _send(self, *lines: str) -> None:
        if not self._address:
            return
        with (
            contextlib.suppress(OSError),
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as out,
        ):
            out.settimeout(_SEND_S)
            out.sendto("\n".join(lines).encode(), self._address)
