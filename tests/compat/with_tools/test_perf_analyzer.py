"""perf_analyzer, Triton's load generator, over HTTP and gRPC.

Its binary needs glibc 2.38; older systems get an empty package of that name, and skip this. The
variable PERF_ANALYZER names another binary.
"""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = os.environ.get("PERF_ANALYZER", str(Path(sys.executable).with_name("perf_analyzer")))

pytestmark = pytest.mark.skipif(
    not Path(PROGRAM).exists(), reason="perf_analyzer has no binary for this system"
)


@pytest.fixture
def measure(server, tmp_path):
    """Run it on the digits server; the rows of its report."""

    def run(protocol: str, *arguments: str) -> list[dict[str, str]]:
        address = server.grpc if protocol == "grpc" else server.http
        report = tmp_path / "report.csv"
        done = subprocess.run(
            [PROGRAM, "-m", "digits", "-u", address, "-i", protocol, "--shape", "x:64"]
            + ["-f", str(report), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=50,
            check=False,
        )
        assert done.returncode == 0, done.stdout
        with report.open() as file:
            return list(csv.DictReader(file))

    return run


def check(row: dict[str, str]) -> None:
    """A measurement of something, with the server's own part of it."""
    assert float(row["Inferences/Second"]) > 0
    assert float(row["p99 latency"]) >= float(row["p50 latency"]) > 0


#: Of the report, when the server's statistics could be read.
SERVER_COLUMNS = {
    "Server Queue",
    "Server Compute Input",
    "Server Compute Infer",
    "Server Compute Output",
}


@pytest.mark.parametrize("protocol", ["http", "grpc"])
@pytest.mark.parametrize("rows", ["1", "8"])
def test_closed_loop(measure, protocol, rows):
    found = measure(protocol, "-b", rows, "--concurrency-range", "4", "--request-count", "200")
    (row,) = found
    assert row["Concurrency"] == "4"
    check(row)
    assert set(row) >= SERVER_COLUMNS


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_asynchronous(measure, protocol):
    (row,) = measure(
        protocol, "--async", "--concurrency-range", "8", "--request-count", "200", "-b", "2"
    )
    check(row)


def test_streaming(measure):
    (row,) = measure(
        "grpc", "--streaming", "--async", "--concurrency-range", "4", "--request-count", "200"
    )
    check(row)


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_open_loop(measure, protocol):
    (row,) = measure(protocol, "--request-rate-range", "200", "--request-count", "200")
    assert row["Request Rate"] == "200"
    check(row)


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_data_from_a_file(measure, protocol, digits, tmp_path):
    data = tmp_path / "data.json"
    data.write_text(json.dumps({"data": [{"x": row.tolist()} for row in digits.x[:16]]}))
    (row,) = measure(protocol, "--input-data", str(data), "--request-count", "100")
    check(row)
