import pytest

from benchmarks.errors import BenchmarkError
from benchmarks.figures import ProtocolFigures, Spread, WayFigures
from benchmarks.h2load import H2loadResult, framed, parse_output
from benchmarks.table import protocol_table

OUTPUT = """starting benchmark...
Main benchmark duration is started for thread #0.

finished in {finished}
requests: 110 total, 140 started, {done} done, {well} succeeded, {failed} failed, 0 errored
status codes: 100 2xx, 0 3xx, 0 4xx, 0 5xx
"""


def output(*, finished="2.00s, 55.00 req/s, 9.9KB/s", done=110, well=110, failed=0):
    return OUTPUT.format(finished=finished, done=done, well=well, failed=failed)


def test_a_message_is_framed():
    assert framed(b"abc") == b"\0\0\0\0\3abc"
    assert framed(bytes(70_000))[:5] == b"\0\0\1\x11\x70"


def test_what_h2load_prints():
    assert parse_output(output()) == H2loadResult(110, 55.0)


@pytest.mark.parametrize(
    "printed",
    ["", "connection refused", output(failed=3), output(well=100), output(done=0, well=0)],
)
def test_a_run_that_failed_is_no_result(printed):
    with pytest.raises(BenchmarkError):
        parse_output(printed)


def test_the_table_has_no_latency_where_none_is_told():
    one, none = Spread(1.5, 1, 2), Spread(0, 0, 0)
    ways = (WayFigures("HTTP", 1, one, one), WayFigures("gRPC", 32, one, none))
    http, grpc = protocol_table(ProtocolFigures(ways)).splitlines()[2:]
    assert http == "| HTTP | 1.5 (1–2) | 1.5 (1–2) |"
    assert grpc == "| gRPC | 1.5 (1–2) |  |"
