"""Answers in time although a member is late: ``python -m benchmarks.late_member``.

Serves the ImageNet ensemble with a quorum of two, while one member takes ten times as long as it
should, on one device or on all, and sends photos with a deadline, one after another. Prints how
many answers came by the deadline and 20 ms, and that without a deadline nothing is lost. The delay
is put into the workers from outside: this process hands them a ``sitecustomize`` module.
"""

from __future__ import annotations

import argparse
import http.client
import importlib.util
import json
import tempfile
import time
from collections import Counter
from pathlib import Path

import yaml
from ensembled_client.wire import HEADER_LENGTH, RawTensor, join_elements, request_header

from benchmarks.errors import BenchmarkError
from benchmarks.limit import errors_as_lines
from benchmarks.server_process import RunningServer, running_server

__all__ = ["main"]

_ROOT = Path(__file__).resolve().parent.parent
_CONFIG = _ROOT / "configs" / "imagenet.yaml"
_LATE = "lite1"
_MEMBERS = 3
_TIMES = 10
_ALLOWANCE_MS = 20

#: Runs at the start of every process; in workers it wraps what runs a member.
_DELAY = f"""
import sys

if "workers.worker.process" in sys.orig_argv:
    import os
    import time
    import workers.worker.instance as instance

    answer = instance.Instance._answer

    def late(self, inputs):
        started = time.perf_counter()
        given = answer(self, inputs)
        here = min(os.sched_getaffinity(0))
        if self.spec.source.member == {_LATE!r} and {{where}} and self.latency_s[0]:
            time.sleep({_TIMES - 1} * (time.perf_counter() - started))
        return given

    instance.Instance._answer = late
"""


def _photos() -> list[bytes]:
    spec = importlib.util.find_spec("foolbox")  # for its photos; its code needs more than is here
    if spec is None or spec.origin is None:
        raise BenchmarkError("the photos are not installed: make setup")
    data = Path(spec.origin).parent / "data"
    return [path.read_bytes() for path in sorted(data.glob("imagenet_*.jpg"))]


def _write_config(directory: Path) -> Path:
    document = yaml.safe_load(_CONFIG.read_text(encoding="utf-8"))
    document["ensembles"]["imagenet"]["quorum"] = _MEMBERS - 1
    path = directory / "late.yaml"
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    return path


def _ask(connection: http.client.HTTPConnection, photo: bytes, timeout_ms: int) -> tuple[int, str]:
    """Ask with a deadline (0: none); the status, and which members answered."""
    image = RawTensor("image", "BYTES", (1,), join_elements([photo]))
    parameters = {"timeout": timeout_ms * 1000}
    header = request_header([image], outputs={"output": 1}, parameters=parameters)
    headers = {HEADER_LENGTH: str(len(header))}
    connection.request("POST", "/v2/models/imagenet/infer", header + image.data, headers)
    response = connection.getresponse()
    length = int(response.headers.get(HEADER_LENGTH, response.headers["Content-Length"]))
    answer = json.loads(response.read()[:length])
    return response.status, answer.get("parameters", {}).get("members", answer.get("error", ""))


def _measure(server: RunningServer, requests: int, deadline_ms: int) -> None:
    connection = http.client.HTTPConnection(server.address)
    photos = _photos()
    for name, timeout_ms in (("with a deadline", deadline_ms), ("without", 0)):
        times_ms: list[float] = []
        answers: Counter[str] = Counter()
        for number in range(requests):
            photo = photos[number % len(photos)]
            started = time.perf_counter()
            status, members = _ask(connection, photo, timeout_ms)
            times_ms.append((time.perf_counter() - started) * 1000)
            answers[members if status == 200 else f"{status} {members}"] += 1
        times_ms.sort()
        late = sum(one > deadline_ms + _ALLOWANCE_MS for one in times_ms) if timeout_ms else 0
        print(
            f"{name}: {requests} requests, p50 {times_ms[requests // 2]:.0f} ms, "
            f"slowest {times_ms[-1]:.0f} ms"
            + (f", {late} after {deadline_ms} + {_ALLOWANCE_MS} ms" if timeout_ms else "")
        )
        for members, count in answers.most_common():
            print(f"  {count:4} x {members}")


def main() -> None:
    """Run the measurement."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.late_member", description=__doc__)
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--deadline-ms", type=int, default=150)
    parser.add_argument("--core", type=int, help="of the one device where it is late [all are]")
    options = parser.parse_args()
    with errors_as_lines(), tempfile.TemporaryDirectory() as directory:
        where = "True" if options.core is None else f"here == {options.core}"
        code = _DELAY.replace("{where}", where)
        (Path(directory) / "sitecustomize.py").write_text(code, encoding="utf-8")
        config = _write_config(Path(directory))
        with running_server(config, PYTHONPATH=f"{directory}:{_ROOT}") as server:
            _measure(server, options.requests, options.deadline_ms)


if __name__ == "__main__":
    main()
