"""The load generator h2load (Debian's package `nghttp2-client`): gRPC calls, again and again.

A call is an HTTP/2 request whose body is a message with five bytes before it. h2load does not read
what gRPC says in a call's trailers, so whoever measures asks the server's statistics afterwards.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from benchmarks.errors import BenchmarkError

__all__ = ["H2loadResult", "find_h2load", "framed", "parse_output", "run_h2load"]

_METHOD = "/inference.GRPCInferenceService/ModelInfer"
_GRACE_S = 60
_FINISHED = re.compile(r"^finished in ([0-9.]+)(s|ms), ([0-9.]+) req/s", re.MULTILINE)
_REQUESTS = re.compile(
    r"^requests: \d+ total, \d+ started, (\d+) done, (\d+) succeeded, (\d+) failed", re.MULTILINE
)


@dataclass(frozen=True)
class H2loadResult:
    """What a run counted.

    Attributes:
        requests: answered.
        requests_per_s: the rate.
    """

    requests: int
    requests_per_s: float


def find_h2load() -> str:
    """Return where h2load is.

    Raises:
        BenchmarkError: if it is not on the PATH.
    """
    found = shutil.which("h2load")
    if found is None:
        raise BenchmarkError("h2load is not on the PATH: apt install nghttp2-client")
    return found


def framed(message: bytes) -> bytes:
    """A message as a call's body has it: not compressed, its length, itself."""
    return b"\0" + len(message).to_bytes(4, "big") + message


def parse_output(output: str) -> H2loadResult:
    """Return what a run counted.

    Raises:
        BenchmarkError: if it has counted nothing, or any request failed.
    """
    finished, requests = _FINISHED.search(output), _REQUESTS.search(output)
    if finished is None or requests is None:
        raise BenchmarkError(f"h2load printed no result: {output.strip()[-300:]}")
    done, succeeded, failed = map(int, requests.groups())
    if failed or succeeded == 0 or succeeded < done:
        raise BenchmarkError(f"{done} calls ended, {succeeded} of them well, {failed} failed")
    return H2loadResult(succeeded, float(finished[3]))


def run_h2load(
    address: str, message: bytes, *, connections: int, in_flight: int, seconds: int
) -> H2loadResult:
    """Call ModelInfer again and again.

    Args:
        address: ``HOST:PORT``.
        message: a serialized ModelInferRequest.
        connections: how many.
        in_flight: calls at once on each.
        seconds: how long, 1 or more.

    Raises:
        BenchmarkError: if h2load is missing or a request failed.
    """
    command = [find_h2load(), "--threads=1", f"--clients={connections}"]
    command += [f"--max-concurrent-streams={in_flight}", f"--duration={seconds}"]
    command += ["--header=content-type: application/grpc", "--header=te: trailers"]
    with tempfile.TemporaryDirectory(prefix="h2load-") as directory:
        body = Path(directory, "body")
        body.write_bytes(framed(message))
        ended = subprocess.run(
            [*command, f"--data={body}", f"http://{address}{_METHOD}"],
            capture_output=True,
            text=True,
            timeout=seconds + _GRACE_S,
            check=False,
        )
    if ended.returncode != 0:
        raise BenchmarkError(f"h2load failed: {(ended.stderr or ended.stdout).strip()[-300:]}")
    return parse_output(ended.stdout)
