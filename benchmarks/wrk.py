"""The load generator wrk (Debian's package `wrk`): a closed loop in C, one request per connection.

A Lua script gives it the request and has it print its counts as a line of JSON, so that nothing
is read off its table. Its percentiles are corrected for coordinated omission, as it always does:
where latencies vary, p99 is higher than the requests sent have seen.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from benchmarks.errors import BenchmarkError
from benchmarks.infer_request import EncodedRequest

__all__ = ["WrkResult", "find_wrk", "lua_script", "parse_output", "run_wrk"]

_PREFIX = "result "
_TIMEOUT_S = 10
_GRACE_S = 60

_SEND = """
local function read(path)
  local file = assert(io.open(path, "rb"))
  local content = file:read("*a")
  file:close()
  return content
end
wrk.method = "POST"
if #entries == 1 then -- wrk makes it once
  wrk.body = read(entries[1][2])
  for name, value in pairs(entries[1][3]) do wrk.headers[name] = value end
else
  local ready, last = {}, 0
  init = function()
    for index, entry in ipairs(entries) do
      local headers = {["Host"] = wrk.headers["Host"]}
      for name, value in pairs(entry[3]) do headers[name] = value end
      ready[index] = wrk.format("POST", entry[1], headers, read(entry[2]))
    end
  end
  request = function()
    last = last % #ready + 1
    return ready[last]
  end
end
"""

_REPORT = """
done = function(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format(
    'result {"requests": %d, "seconds": %f, "p50_ms": %f, "p99_ms": %f, "errors": '
    .. '{"status": %d, "connect": %d, "read": %d, "write": %d, "timeout": %d}}\\n',
    summary.requests, summary.duration / 1e6,
    latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
    errors.status, errors.connect, errors.read, errors.write, errors.timeout))
end
"""


class WrkResult(msgspec.Struct, frozen=True):
    """What a run of wrk counted.

    Attributes:
        requests: answered.
        seconds: that it took.
        p50_ms: latency, median.
        p99_ms: latency.
        errors: how many of each kind: answers that are not 2xx or 3xx (``status``), connections
            that failed, answers that did not come in time.
    """

    requests: int
    seconds: float
    p50_ms: float
    p99_ms: float
    errors: dict[str, int]

    @property
    def requests_per_s(self) -> float:
        """The rate."""
        return self.requests / self.seconds


def find_wrk() -> str:
    """Return where wrk is.

    Raises:
        BenchmarkError: if it is not on the PATH.
    """
    found = shutil.which("wrk")
    if found is None:
        raise BenchmarkError("the load generator wrk is not on the PATH: apt install wrk")
    return found


def lua_script(requests: Sequence[EncodedRequest], body_files: Sequence[Path]) -> str:
    """Return the script that sends requests, one after another, whose bodies lie in files."""
    entries = "".join(
        f"{{{_text(request.path)}, {_text(str(path))}, {_table(request.headers)}}},\n"
        for request, path in zip(requests, body_files, strict=True)
    )
    return f"local entries = {{\n{entries}}}\n" + _SEND + _REPORT


def _table(headers: Mapping[str, str]) -> str:
    return "{" + ", ".join(f"[{_text(key)}] = {_text(one)}" for key, one in headers.items()) + "}"


def _text(value: str) -> str:
    return json.dumps(value)


def parse_output(output: str) -> WrkResult:
    """Return what a run counted.

    Raises:
        BenchmarkError: if it has counted nothing, or any request failed.
    """
    lines = [line for line in output.splitlines() if line.startswith(_PREFIX)]
    if not lines:
        raise BenchmarkError(f"wrk printed no result: {output.strip()[-300:]}")
    result = msgspec.json.decode(lines[-1].removeprefix(_PREFIX), type=WrkResult)
    if any(result.errors.values()) or "Non-2xx" in output:
        kinds = ", ".join(f"{count} {kind}" for kind, count in result.errors.items() if count)
        raise BenchmarkError(f"requests failed ({kinds} errors; {result.requests} answers)")
    if result.requests == 0:
        raise BenchmarkError("not one request was answered in the time of the measurement")
    return result


def run_wrk(
    address: str,
    requests: EncodedRequest | Sequence[EncodedRequest],
    connections: int,
    seconds: int,
) -> WrkResult:
    """Send requests again and again over some connections, one after another.

    Args:
        address: ``HOST:PORT``.
        requests: what is sent, one request or several.
        connections: each has one request in flight.
        seconds: how long, 1 or more.

    Raises:
        BenchmarkError: if wrk is missing or any request failed.
    """
    sent = [requests] if isinstance(requests, EncodedRequest) else list(requests)
    command = [find_wrk(), "--threads", "1", "--connections", str(connections)]
    with tempfile.TemporaryDirectory(prefix="wrk-") as directory:
        script = Path(directory, "request.lua")
        bodies = [Path(directory, f"body-{number}") for number in range(len(sent))]
        for request, body in zip(sent, bodies, strict=True):
            body.write_bytes(request.body)
        script.write_text(lua_script(sent, bodies), encoding="utf-8")
        command += ["--duration", f"{seconds}s", "--timeout", f"{_TIMEOUT_S}s"]
        command += ["--script", str(script), f"http://{address}{sent[0].path}"]
        ended = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=seconds + _TIMEOUT_S + _GRACE_S,
            check=False,
        )
    if ended.returncode != 0:
        raise BenchmarkError(f"wrk failed: {(ended.stderr or ended.stdout).strip()[-300:]}")
    return parse_output(ended.stdout)
