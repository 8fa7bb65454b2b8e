"""A client that makes one call after the other over gRPC, and judges what comes back."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import time
from typing import Any

os.environ.setdefault("GRPC_VERBOSITY", "NONE")

import grpc  # noqa: E402
from ensembled_client.wire.messages import SERVICE, message_class  # noqa: E402

from tests.fuzz.case import Case  # noqa: E402
from tests.fuzz.findings import Findings  # noqa: E402
from tests.fuzz.grpc_cases import Call  # noqa: E402
from tests.fuzz.http_lane import PATIENCE_S  # noqa: E402

#: What the protocol's table knows; INTERNAL only if it names a member.
CODES = {"OK", "INVALID_ARGUMENT", "NOT_FOUND", "RESOURCE_EXHAUSTED", "UNIMPLEMENTED"}
_LATE = {"DEADLINE_EXCEEDED"}
#: What calls see that were made to a server which another's broken frames have ended.
ENDED = {"CANCELLED", "UNAVAILABLE"}
_MEMBER = re.compile(r"member")
_Streamed = message_class("ModelStreamInferResponse")


class GrpcLane:
    """One client.

    Args:
        address: HOST:PORT.
        findings: takes what is found out.
    """

    def __init__(self, address: str, findings: Findings) -> None:
        self._address = address
        self._findings = findings
        options = {
            "grpc.max_send_message_length": -1,
            "grpc.max_receive_message_length": -1,
            "grpc.use_local_subchannel_pool": 1,
        }
        self._channel = grpc.insecure_channel(address, options=list(options.items()))

    def close(self) -> None:
        self._channel.close()

    def do(self, call: Call) -> None:
        """Make one call."""
        began = time.monotonic()
        try:
            outcomes = (
                self._stream(call) if call.method == "ModelStreamInfer" else [self._unary(call)]
            )
        except grpc.RpcError as error:
            outcomes = [self._judge(call, error)]
        except grpc.FutureCancelledError:
            outcomes = ["CANCELLED"]
        self._findings.count(call.kind, outcomes, time.monotonic() - began)

    def _unary(self, call: Call) -> str:
        method = self._channel.unary_unary(f"/{SERVICE}/{call.method}")
        future = method.future(call.messages[0], timeout=call.timeout_s or PATIENCE_S)
        if call.cancels:
            future.cancel()
        future.result()
        return "OK"

    def _stream(self, call: Call) -> list[str]:
        """A stream answers each of its messages in order, or says what is wrong with it."""
        method = self._channel.stream_stream(f"/{SERVICE}/{call.method}")
        answers = method(iter(call.messages), timeout=PATIENCE_S)
        if call.cancels:
            with contextlib.suppress(grpc.RpcError):
                next(iter(answers), None)
            answers.cancel()
            return ["CANCELLED"]
        outcomes = []
        for answer in answers:
            text = _Streamed.FromString(answer).error_message
            outcomes.append("error" if text else "OK")
            if "\n" in text or "internal error" in text:
                self._violate(call, f"in a stream: {text[:200]}")
        if len(outcomes) != len(call.messages):
            self._violate(call, f"{len(outcomes)} answers to {len(call.messages)} messages")
        return outcomes or ["OK"]

    def _judge(self, call: Call, error: Any) -> str:
        code, text = error.code().name, error.details() or ""
        is_late = code in _LATE and (call.timeout_s is not None or "deadline" in text)
        is_gone = call.cancels and code == "CANCELLED"
        is_member = code == "INTERNAL" and bool(_MEMBER.search(text))
        if code in ENDED and not call.cancels:
            self._findings.end()
        elif not (code in CODES or is_late or is_gone or is_member):
            self._violate(call, f"{code}: {text[:200]}")
        if "\n" in text:
            self._violate(call, f"{code} with a text of several lines")
        return str(code)

    def _violate(self, call: Call, what: str) -> None:
        self._findings.violate(call.kind, what, b"".join(call.messages))


class FramesLane:
    """One client that writes its HTTP/2 itself, on a connection of its own each time."""

    def __init__(self, address: str, findings: Findings) -> None:
        host, _, port = address.rpartition(":")
        self._address = host, int(port)
        self._findings = findings

    def close(self) -> None:
        """Nothing is kept open."""

    def do(self, case: Case) -> None:
        """Send it all, end the own side, and wait until the server ends its."""
        began = time.monotonic()
        outcome = "closed"
        try:
            # A server that ends, see `campaign`, takes connections with it that it has not seen.
            with contextlib.suppress(ConnectionError):
                self._exchange(case)
        except TimeoutError:
            outcome = "hang"
            self._findings.violate(case.kind, f"open after {PATIENCE_S} s", case.data)
        self._findings.count(case.kind, [outcome], time.monotonic() - began)

    def _exchange(self, case: Case) -> None:
        with socket.create_connection(self._address, PATIENCE_S) as connection:
            connection.sendall(case.data)
            if case.gives_up is None:
                with contextlib.suppress(OSError):  # it has gone already
                    connection.shutdown(socket.SHUT_WR)
                while connection.recv(1 << 16):
                    pass
