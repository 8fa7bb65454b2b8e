"""What systemd is told of the real server, and the unit that asks for it."""

import asyncio
import os
import queue
import shutil
import signal
import socket
import subprocess
import threading
from pathlib import Path

import pytest
from serving import configuration, fake

from server.supervision.systemd import SystemdNotifier

UNIT = Path(__file__).parents[2] / "configs" / "systemd" / "ensembled.service"


class Systemd:
    """The socket that `NOTIFY_SOCKET` names."""

    def __init__(self, address):
        self.environment = address.replace("\0", "@")
        self.told = queue.Queue()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._socket.bind(address)
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self):
        while data := self._socket.recv(4096):
            self.told.put(dict(line.split("=", 1) for line in data.decode().split("\n")))

    def wait(self, wanted):
        """Wait for a datagram that says that; it, as a mapping."""
        while (told := self.told.get(timeout=60)).get(wanted) != "1":
            pass
        return told

    def close(self):
        self._socket.sendto(b"", self._socket.getsockname())
        self._reader.join()
        self._socket.close()


@pytest.fixture
def systemd(tmp_path):
    systemd = Systemd(str(tmp_path / "notify"))
    yield systemd
    systemd.close()


@pytest.mark.process
def test_systemd_is_told_of_every_turn(serve, systemd):
    server = serve(
        configuration({"a": fake(1)}, drain_delay_s=0.1),
        ready=False,
        redirect=">/dev/full",  # nobody hears that it is ready, but systemd does
        NOTIFY_SOCKET=systemd.environment,
        WATCHDOG_USEC="200000",
        WATCHDOG_PID="",
    )
    assert systemd.told.get(timeout=60) == {"STATUS": "starting"}
    assert systemd.told.get(timeout=60) == {"READY": "1", "STATUS": "serving"}
    for _ in range(3):
        assert systemd.wait("WATCHDOG") == {"WATCHDOG": "1"}
    for child in server.children():
        assert not {"NOTIFY_SOCKET", "WATCHDOG_USEC"} & set(child.environ())
    server.process.send_signal(signal.SIGHUP)
    reloading = systemd.wait("RELOADING")
    assert int(reloading["MONOTONIC_USEC"]) > 0
    systemd.wait("READY")
    server.process.send_signal(signal.SIGTERM)
    systemd.wait("STOPPING")
    assert server.wait_end() == 0  # the delay is over
    assert "Traceback" not in server.stderr


def test_an_abstract_address_is_one():
    systemd = Systemd(f"\0ensembled-{os.getpid()}-test")
    assert systemd.environment.startswith("@")
    SystemdNotifier({"NOTIFY_SOCKET": systemd.environment}).ready()
    assert systemd.told.get(timeout=60) == {"READY": "1", "STATUS": "serving"}
    systemd.close()


@pytest.mark.parametrize("address", ["", "/nowhere/at/all", "@nobody-listens", "vsock:2:3"])
def test_a_socket_that_is_not_there_harms_nobody(address):
    notifier = SystemdNotifier({"NOTIFY_SOCKET": address})
    notifier.starting()
    notifier.ready()
    notifier.reloading()
    notifier.stopping()


@pytest.mark.parametrize("given", [{}, {"USEC": "soon"}, {"USEC": "1000000", "PID": "1"}])
def test_nobody_is_watched_who_is_not_asked(given):
    environment = {f"WATCHDOG_{name}": value for name, value in given.items()}
    asyncio.run(SystemdNotifier(environment).keep_alive())  # at once
    assert environment == {}


def test_the_unit_is_one():
    tool = shutil.which("systemd-analyze")
    if tool is None:
        pytest.skip("systemd-analyze is not installed (Debian: apt-get install systemd)")
    done = subprocess.run(
        [tool, "verify", "--man=no", str(UNIT)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    # That the program is not installed here is no fault of the unit.
    lines = [line for line in done.stderr.splitlines() if "ensembled.service" in line]
    assert [line for line in lines if "is not executable" not in line] == []
