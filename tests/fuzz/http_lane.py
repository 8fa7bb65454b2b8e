"""A client that does one thing after the other over HTTP, and judges what comes back."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import struct
import time

from tests.fuzz.case import Case
from tests.fuzz.findings import Findings

#: Nobody may be kept waiting for longer, on however busy a machine.
PATIENCE_S = 40.0
#: What the protocol's table knows; 500 only if it names a member.
STATUSES = {200, 400, 404, 405, 408, 413, 415, 429, 431, 504}
_RESET = struct.pack("ii", 1, 0)
_MEMBER = re.compile(r"member")


class Broken(Exception):
    """What came back is no answer."""


class Answers:
    """The answers on a connection, read one after the other."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._rest = b""

    def read(self, *, is_head: bool = False) -> tuple[int, dict[bytes, bytes], bytes] | None:
        """The next answer but for 100, None if the connection ends.

        Raises:
            Broken: if what comes is none.
        """
        while True:
            answer = self._read(is_head)
            if answer is None or answer[0] != 100:
                return answer

    def _read(self, is_head: bool) -> tuple[int, dict[bytes, bytes], bytes] | None:
        while b"\r\n\r\n" not in self._rest:
            if not self._receive():
                if self._rest:
                    raise Broken(f"the head ends early: {self._rest[:200]!r}")
                return None
        head, _, self._rest = self._rest.partition(b"\r\n\r\n")
        first, *lines = head.split(b"\r\n")
        found = re.fullmatch(rb"HTTP/1\.[01] (\d{3}) [ -~]*", first)
        if found is None:
            raise Broken(f"no status line: {first[:200]!r}")
        headers = {
            name.lower(): value.strip()
            for name, _, value in (line.partition(b":") for line in lines)
        }
        status = int(found[1])
        if status == 100:
            return status, headers, b""
        if not headers.get(b"content-length", b"").isdigit():
            raise Broken(f"an answer of unknown length: {head[:300]!r}")
        length = 0 if is_head else int(headers[b"content-length"])
        while len(self._rest) < length:
            if not self._receive():
                raise Broken("the body ends early")
        body, self._rest = self._rest[:length], self._rest[length:]
        return status, headers, body

    def _receive(self) -> bool:
        chunk = self._connection.recv(1 << 16)
        self._rest += chunk
        return bool(chunk)


class HttpLane:
    """One client.

    Args:
        address: host and port.
        findings: takes what is found out.
    """

    def __init__(self, address: tuple[str, int], findings: Findings) -> None:
        self._address = address
        self._findings = findings
        self._kept: tuple[socket.socket, Answers] | None = None

    def do(self, case: Case) -> None:
        """Do one thing."""
        began = time.monotonic()
        try:
            if case.gives_up is not None:
                outcomes = self._give_up(case)
            elif case.is_framed:
                outcomes = self._ask(case)
            else:
                outcomes = self._send_all(case)
        except TimeoutError:
            self.close()
            self._findings.violate(case.kind, f"no answer within {PATIENCE_S} s", case.data)
            outcomes = ["hang"]
        except Broken as broken:
            self.close()
            self._findings.violate(case.kind, str(broken), case.data)
            outcomes = ["broken"]
        self._findings.count(case.kind, outcomes, time.monotonic() - began)

    def close(self) -> None:
        if self._kept is not None:
            self._kept[0].close()
            self._kept = None

    def _connect(self) -> tuple[socket.socket, Answers]:
        connection = socket.create_connection(self._address, PATIENCE_S)
        return connection, Answers(connection)

    def _ask(self, case: Case) -> list[str]:
        """Send one message on the connection that is there, and read its answer."""
        is_used = self._kept is not None
        self._kept = self._kept or self._connect()
        connection, answers = self._kept
        answer = None
        try:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                connection.sendall(case.data)
            answer = answers.read(is_head=case.is_head)
        except ConnectionResetError:
            pass
        if answer is None:
            self.close()
            if is_used:  # the server had closed it before
                return self._ask(case)
            self._findings.violate(case.kind, "the connection was closed", case.data)
            return ["closed"]
        if answer[1].get(b"connection", b"").lower() == b"close":
            self.close()
        return [self._judge(case, answer)]

    def _send_all(self, case: Case) -> list[str]:
        """Send everything, end the own side, and read until the server ends its."""
        outcomes = []
        connection, answers = self._connect()
        with connection:
            try:
                connection.sendall(case.data)
                connection.shutdown(socket.SHUT_WR)
                while (answer := answers.read()) is not None:
                    outcomes.append(self._judge(case, answer))
            except (ConnectionResetError, BrokenPipeError):
                outcomes.append("closed")
            except OSError as error:
                if isinstance(error, TimeoutError):
                    raise
                outcomes.append("closed")
        return outcomes or ["closed"]

    def _give_up(self, case: Case) -> list[str]:
        connection, _ = self._connect()
        with connection, contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.sendall(case.data[: case.gives_up])
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        return ["gone"]

    def _judge(self, case: Case, answer: tuple[int, dict[bytes, bytes], bytes]) -> str:
        status, _, body = answer
        if status >= 400 and not case.is_head:
            complaint = _complaint(status, body)
            if complaint:
                self._findings.violate(case.kind, complaint, case.data)
        elif status not in STATUSES:
            self._findings.violate(case.kind, f"status {status}", case.data)
        return str(status)


def _complaint(status: int, body: bytes) -> str:
    """What is wrong with a refusal, "" if nothing is."""
    try:
        document = json.loads(body)
    except ValueError:
        return f"{status} without JSON: {body[:200]!r}"
    if not isinstance(document, dict) or set(document) != {"error"}:
        return f"{status} in another shape: {body[:200]!r}"
    text = document["error"]
    if not isinstance(text, str) or not text or "\n" in text:
        return f"{status} without a line of text: {body[:200]!r}"
    if status not in STATUSES and not (status == 500 and _MEMBER.search(text)):
        return f"status {status}: {text[:200]}"
    return ""
