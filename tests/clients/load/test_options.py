"""The command line."""

import importlib.util

import pytest
from ensembled_client.load.cli import main
from ensembled_client.load.options import LoadTarget, UsageError, parse_options
from ensembled_client.load.runner import generator_configs
from ensembled_client.load.workload import Workload

URL = "http://host:8000"


def parsed(line, url=URL):
    return parse_options([url, "m", *line.split()])


@pytest.mark.parametrize(
    ("line", "arrivals", "loads"),
    [
        ("", "closed", (8,)),
        ("--connections 3", "closed", (3,)),
        ("--sweep 1,2,4", "closed", (1, 2, 4)),
        ("--rate 12.5", "constant", (12.5,)),
        ("--rate 5 --arrivals poisson", "poisson", (5,)),
        ("--arrivals constant --sweep 1.5,3 --connections 9", "constant", (1.5, 3)),
        ("--trace t.csv", "trace", ()),
    ],
)
def test_loads(line, arrivals, loads):
    options = parsed(line)
    assert (options.arrivals, options.loads) == (arrivals, loads)
    assert options.is_open == (arrivals != "closed")


@pytest.mark.parametrize(
    ("line", "duration_s", "count"),
    [
        ("", 10, None),
        ("--duration 2.5", 2.5, None),
        ("--count 7", None, 7),
        ("--trace t", None, None),
        ("--trace t --duration 3", 3, None),
    ],
)
def test_how_long(line, duration_s, count):
    assert (parsed(line).duration_s, parsed(line).count) == (duration_s, count)


@pytest.mark.parametrize(
    "line",
    [
        "--trace t --rate 5",
        "--trace t --sweep 5",
        "--trace t --arrivals poisson",
        "--rate 5 --sweep 1,2",
        "--arrivals poisson",
        "--sweep 1,2 --connections 4",
        "--sweep 1.5",
        "--duration 1 --count 1",
        "--max-errors many",
        "--plot picture.txt",
        "--protocol grpc",
    ],
)
def test_what_does_not_go_together_is_a_usage_error(line, capsys):
    with pytest.raises(UsageError):
        parsed(line)
    assert main([URL, "m", *line.split()]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1


@pytest.mark.parametrize(
    "line",
    ["--rate 0", "--rate x", "--rate inf", "--count 0", "--rows 1.5", "--shape 3", "--nothing"],
)
def test_argparse_exits_with_2_for_wrong_values(line, capsys):
    with pytest.raises(SystemExit) as caught:
        main([URL, "m", *line.split()])
    assert caught.value.code == 2
    assert "usage" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("url", "protocol", "found", "authority"),
    [
        (URL, None, "binary", "host:8000"),
        (URL, "json", "json", "host:8000"),
        ("https://host/a/", None, "binary", "host:443"),
        ("grpc://[::1]", None, "grpc", "[::1]:8001"),
        ("grpcs://host:9", "grpc", "grpc", "host:9"),
    ],
)
def test_targets(url, protocol, found, authority):
    target = LoadTarget.of(url, "m", protocol)
    assert (target.protocol, target.address.authority) == (found, authority)
    assert target.address.is_encrypted == url.split(":")[0].endswith("s")


@pytest.mark.parametrize(
    ("url", "protocol"),
    [("host:8000", None), ("ftp://host", None), ("http://", None), ("http://h:x", None),
     ("grpc://host", "json"), ("http://[::1", None),
     ("http://me:secret@host", None), ("http://host?x=1", None)],
)  # fmt: skip
def test_urls_that_are_none(url, protocol):
    with pytest.raises(UsageError):
        LoadTarget.of(url, "m", protocol)


def test_parameters_are_the_protocols():
    assert parsed("").parameters == {}
    assert parsed("--timeout 0.25 --members a,b").parameters == {
        "timeout": 250_000,
        "members": "a,b",
    }
    assert parsed("--timeout 1e-9").parameters == {"timeout": 1}


def configs(line, load=None, trace=()):
    options = parsed(line)
    return generator_configs(
        options, load or (*options.loads, 1)[0], trace, Workload(1, {1: (b"",)})
    )


def test_the_work_is_divided_without_rest():
    parts = configs("--connections 7 --processes 3 --count 20")
    assert [config.connections for config in parts] == [3, 2, 2]
    assert [config.count for config in parts] == [7, 7, 6]
    assert len(configs("--connections 2 --processes 3")) == 2
    assert len(configs("--count 1 --processes 3")) == 1


def test_an_open_loop_has_one_schedule_for_all():
    first, second = configs("--rate 10 --count 9 --processes 2")
    assert first.schedule == second.schedule
    assert (first.schedule.rate, first.schedule.count, first.count) == (10, 9, None)
    assert (first.connections, first.index, second.index) == (128, 0, 1)
    (traced,) = configs("--trace t --rows 2", trace=((0.5, 2),))
    assert (traced.schedule.trace, traced.schedule.rate) == (((0.5, 2),), None)


@pytest.mark.parametrize(
    ("missing", "line", "extra"),
    [
        ("hdrh", f"{URL} m", "load"),
        ("httptools", f"{URL} m", "load"),
        ("PIL", f"{URL} m", "load"),
        ("rich", f"{URL} m", "load"),
        ("grpc", "grpc://host m", "grpc"),
        ("google.protobuf", "grpc://host m", "grpc"),
        ("matplotlib", f"{URL} m --plot a.svg", "plot"),
    ],
)
def test_a_missing_extra_is_named(missing, line, extra, monkeypatch, capsys):
    find = importlib.util.find_spec

    def find_spec(name):
        if name == missing == "google.protobuf":
            raise ModuleNotFoundError(name)
        return None if name == missing else find(name)

    monkeypatch.setattr(importlib.util, "find_spec", find_spec)
    assert main(line.split()) == 1
    complaint = capsys.readouterr().err
    assert complaint == (
        f"error: {missing} is not installed: pip install 'ensembled-client[{extra}]'\n"
    )
