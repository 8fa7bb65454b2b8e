"""The command against the real server with fake members: figures, files and exit statuses."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from serving import configuration, fake, running, wait_for

ROOT = Path(__file__).parents[3]
pytestmark = pytest.mark.process


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    config = configuration({"low": fake(inputs=4), "high": fake(10, inputs=4)})
    config["members"]["slow"] = fake(inputs=4, sleep_ms=30)
    config["ensembles"]["lame"] = {"members": ["slow"]}
    with running(config, tmp_path_factory.mktemp("load")) as server:
        yield server


@pytest.fixture
def url(server):
    return server.url


def grpc_url(server):
    return f"grpc://{server.grpc}"


def command(*arguments):
    return [sys.executable, str(ROOT / "clients/load_test.py"), *map(str, arguments)]


def load(*arguments, status=0):
    """Run it; what it printed on stdout and stderr."""
    ended = subprocess.run(
        command(*arguments), capture_output=True, text=True, timeout=100, check=False
    )
    assert ended.returncode == status, ended.stderr
    assert "Traceback" not in ended.stderr
    return ended.stdout, ended.stderr


def measured(*arguments, status=0):
    out, _ = load(*arguments, "--json", status=status)
    return json.loads(out)["tests"]


def check(test, count):
    requests = test["requests"]
    assert (requests["sent"], requests["answered"], requests["failed"]) == (count, count, 0)
    latency = test["latency_ms"]
    assert 0 < latency["min"] <= latency["p50"] <= latency["p99"] * 1.002 <= latency["max"] * 1.01
    assert test["errors"] == {}


@pytest.mark.parametrize("protocol", ["json", "binary"])
@pytest.mark.parametrize("how", [["--connections", 3], ["--rate", 400, "--arrivals", "poisson"]])
def test_http(url, protocol, how):
    (test,) = measured(
        url, "all", "--protocol", protocol, "--count", 90, "--rows", 2, "--warmup", 0.1, *how
    )
    check(test, 90)
    assert test["rows_per_s"] == pytest.approx(2 * test["requests_per_s"])
    assert test["tester"]["busy_shares"][0] > 0


@pytest.mark.parametrize("how", [["--connections", 3], ["--rate", 300]])
def test_grpc(server, how):
    (test,) = measured(grpc_url(server), "all", "--count", 60, "--warmup", 0.1, *how)
    check(test, 60)


def test_grpc_mistakes_are_a_line(server):
    _, complaint = load(grpc_url(server), "nobody", status=1)
    assert "unknown model: 'nobody'" in complaint
    assert complaint.count("\n") == 1


def test_several_processes_share_the_work(url):
    (test,) = measured(
        url, "all", "--processes", 2, "--connections", 5, "--count", 101, "--warmup", 0
    )
    check(test, 101)
    assert len(test["tester"]["busy_shares"]) == 2
    (test,) = measured(url, "all", "--processes", 2, "--rate", 300, "--count", 101, "--warmup", 0)
    check(test, 101)


def test_a_trace_with_rows(url, tmp_path):
    trace = tmp_path / "trace.csv"
    trace.write_text("seconds,rows\n" + "".join(f"{i / 100},{1 + i % 3}\n" for i in range(30)))
    (test,) = measured(url, "all", "--trace", trace, "--warmup", 0)
    check(test, 30)
    requests, rows = (test[f"{what}_per_s"] * test["seconds"] for what in ("requests", "rows"))
    late = 30 - round(requests)  # answers after the time that is measured count in neither
    assert 60 - 3 * late <= round(rows) <= 60 - late
    assert test["latency_from"] == "intended start"


def test_inputs_members_and_timeouts_reach_the_server(server, url, tmp_path):
    np.save(tmp_path / "x.npy", np.ones((3, 4), np.float32))
    (test,) = measured(
        url, "all", "--input", tmp_path / "x.npy", "--members", "low", "--count", 10, "--warmup", 0
    )
    check(test, 10)
    _, complaint = load(url, "all", "--members", "nobody", "--count", 10, status=1)
    assert "a request of 1 rows was tried, and failed: 400" in complaint
    (test,) = measured(url, "lame", "--timeout", 0.001, "--count", 3, "--warmup", 0)
    assert test["requests"]["failed"] == 3
    assert all(kind.startswith("504: ") for kind in test["errors"])


def test_files_and_text(url, tmp_path):
    out, err = load(
        url, "all", "--duration", 2, "--warmup", 0.1, "--deadline-ms", 60_000,
        "--output", tmp_path / "o.json", "--plot", tmp_path / "p.svg",
    )  # fmt: skip
    assert "requests/s within 60000 ms (100.00% of the responses)" in out
    assert "0 failed" in out
    assert err == ""
    (test,) = json.loads((tmp_path / "o.json").read_text())["tests"]
    assert test["goodput_per_s"] == test["requests_per_s"] > 0
    assert (tmp_path / "p.svg").read_text().startswith("<?xml")


def test_a_sweep(url, tmp_path):
    first, second = measured(
        url, "all", "--sweep", "1,3", "--count", 20, "--warmup", 0, "--plot", tmp_path / "p.png"
    )
    check(first, 20)
    check(second, 20)
    assert (first["load"], second["load"]) == (1, 3)
    assert (tmp_path / "p.png").stat().st_size > 1000


def test_gates(url):
    count = ["--count", 20, "--warmup", 0]
    _, complaint = load(
        url, "all", *count, "--max-p99-ms", 60_000, "--min-rate", 0.001, "--max-errors", 0
    )
    assert complaint == ""
    out, complaint = load(
        url, "lame", *count, "--connections", 1, "--max-p99-ms", 1, "--min-rate", 1e6, status=3
    )
    assert "20 answered" in out
    p99, rate = complaint.splitlines()
    assert p99.startswith("gate failed: --max-p99-ms 1: p99 is ")
    assert rate.startswith("gate failed: --min-rate 1e+06: ")
    (test,) = measured(url, "lame", *count, "--timeout", 0.001, "--max-errors", "50%", status=3)
    assert test["failed_gates"] == ["--max-errors 50%: 100.000% of the requests failed"]


def test_mistakes_are_a_line(url, tmp_path):
    (tmp_path / "trace.csv").write_text("1\n0\n")
    for arguments, expected in (
        (["http://127.0.0.1:9", "all"], "can't be reached: [Errno 111] Connection refused"),
        ([url, "nobody"], "unknown model: 'nobody'"),
        ([url, "all", "--input", "missing.npy"], "missing.npy: No such file"),
        ([url, "all", "--input", "photo.jpg"], "does not take images"),
        ([url, "all", "--trace", tmp_path / "trace.csv"], "line 2: 0 s should not be before 1 s"),
        ([url, "all", "--output", tmp_path / "no" / "o.json"], "its directory does not exist"),
        ([f"{url}/elsewhere", "all"], "elsewhere: "),
    ):
        out, complaint = load(*arguments, status=1)
        assert out == ""
        assert expected in complaint
        assert complaint.startswith("error: ")
        assert complaint.count("\n") == 1


def test_interrupted_it_reports_what_it_has(server, url):
    before = server.client.get("/v2/models/all/stats").json()
    process = subprocess.Popen(
        command(url, "all", "--duration", 1000, "--warmup", 0, "--json", "--processes", 2),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        wait_for(
            lambda: (
                server.client.get("/v2/models/all/stats").json() != before
                and _requests(server) > _count(before) + 50
            ),
            "requests",
        )
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: everyone gets it
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert (process.returncode, err) == (0, "")
    (test,) = json.loads(out)["tests"]
    assert test["was_stopped"]
    assert test["requests"]["answered"] > 20
    assert test["requests"]["failed"] == 0
    assert len(test["tester"]["busy_shares"]) == 2


def _count(document):
    return int(document["model_stats"][0]["inference_count"])


def _requests(server):
    return _count(server.client.get("/v2/models/all/stats").json())
