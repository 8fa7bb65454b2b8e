import numpy as np
import pytest

from benchmarks.errors import BenchmarkError
from benchmarks.infer_request import binary_request, check_answer, json_request
from benchmarks.server_process import parse_ready
from benchmarks.wrk import WrkResult, find_wrk, lua_script, parse_output

OUTPUT = """Running 1s test @ http://127.0.0.1:8000/v2/models/mlps/infer
  1 threads and 32 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     2.07ms    1.02ms  20.11ms   92.11%
    Req/Sec    15.9k      0.9k    17.2k     80.00%
  15890 requests in 1.00s, 5.12MB read
{extra}Requests/sec:  15890.00
Transfer/sec:      5.12MB
result {{"requests": 15890, "seconds": 1.0, "p50_ms": 1.9, "p99_ms": 4.5, "errors": {errors}}}
"""
NONE = '{"status": 0, "connect": 0, "read": 0, "write": 0, "timeout": 0}'


def test_a_good_run():
    result = parse_output(OUTPUT.format(extra="", errors=NONE))
    assert result.requests_per_s == 15890
    assert (result.p50_ms, result.p99_ms) == (1.9, 4.5)
    assert not any(result.errors.values())


@pytest.mark.parametrize(
    ("extra", "errors", "text"),
    [
        ("  Non-2xx or 3xx responses: 3\n", NONE.replace('s": 0', 's": 3'), "3 status errors"),
        ("  Non-2xx or 3xx responses: 3\n", NONE, "requests failed"),
        ("", NONE.replace('read": 0', 'read": 7'), "7 read errors; 15890 answers"),
    ],
)
def test_a_failed_request_spoils_the_run(extra, errors, text):
    with pytest.raises(BenchmarkError, match=text):
        parse_output(OUTPUT.format(extra=extra, errors=errors))


def test_a_run_without_a_result():
    with pytest.raises(BenchmarkError, match="wrk printed no result: unable to connect"):
        parse_output("unable to connect")
    with pytest.raises(BenchmarkError, match="not one request"):
        parse_output(OUTPUT.format(extra="", errors=NONE).replace('": 15890', '": 0'))


def test_wrk_is_missing(monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(BenchmarkError, match="apt install wrk"):
        find_wrk()


def test_the_rate():
    assert WrkResult(300, 1.5, 1, 1, {}).requests_per_s == 200


def test_the_script_names_paths_bodies_and_headers(tmp_path):
    request = binary_request("duo", "x", np.zeros((1, 4), np.float32))
    script = lua_script([request, request], [tmp_path / "first", tmp_path / "second"])
    length = len(request.body) - 16
    for name in ("first", "second"):
        entry = f'{{"/v2/models/duo/infer", "{tmp_path}/{name}", '
        assert entry in script
    assert f'["Inference-Header-Content-Length"] = "{length}"' in script
    assert "latency:percentile(99)" in script


def test_requests_of_both_protocols():
    row = np.array([[1.5, 2.25]], np.float32)
    binary, text = binary_request("duo", "x", row), json_request("duo", "x", row)
    assert binary.path == text.path == "/v2/models/duo/infer"
    assert binary.body.endswith(row.tobytes())
    assert b'"data":[1.5,2.25]' in text.body
    assert b'"shape":[1,2]' in text.body


def test_a_wrong_answer_is_found():
    right = np.array([[0.25, 0.75]], np.float32)
    check_answer(right + np.float32(1e-6), right)
    with pytest.raises(BenchmarkError, match=r"differs by up to 0\.1"):
        check_answer(right + np.float32(0.1), right)
    with pytest.raises(BenchmarkError, match=r"shape \(2,\)"):
        check_answer(right[0], right)


@pytest.mark.parametrize(
    ("output", "addresses"),
    [
        (b"", None),
        (b"ready http=127.0.0.1:80", None),  # the line may go on
        (b"ready http=127.0.0.1:8000 grpc=127.0.0.1:80", None),
        (
            b"ready http=127.0.0.1:8000 grpc=127.0.0.1:8001\n",
            ("127.0.0.1:8000", "127.0.0.1:8001"),
        ),
        (b"making lite0\nready http=[::1]:8000 grpc=[::1]:8001\n", ("[::1]:8000", "[::1]:8001")),
        (b"not ready http=127.0.0.1:8000 grpc=127.0.0.1:8001\n", None),
    ],
)
def test_the_ready_line(output, addresses):
    assert parse_ready(output) == addresses
