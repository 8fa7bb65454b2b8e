import json

import pytest
from typer.testing import CliRunner

from server.cli.main import app

DEVICES = {
    "devices": [{"name": f"cuda:{i}", "kind": "A100", "memory_bytes": 40e9} for i in (0, 1)],
    "site": "elsewhere",
}
PROFILES = {
    "profiles": [
        {
            "member": member,
            "device_kind": "A100",
            "batch": batch,
            "latency_s": seconds * batch / 8,
            "memory_bytes": 1e9,
        }
        for member, seconds in (("a", 0.01), ("b", 0.03))
        for batch in (8, 16)
    ]
}
ALLOCATION = {
    "members": ["a", "b"],
    "devices": ["cuda:0", "cuda:1"],
    "matrix": [[8, 8], [8, 8]],
}
#: Both devices, time sharing.
ROWS_S = 2 * 8 / (0.01 + 0.03)


class Files:
    def __init__(self, folder):
        self.folder = folder
        self.write("devices", DEVICES)
        self.write("profiles", PROFILES)
        self.write("allocation", ALLOCATION)

    def write(self, name, content):
        path = self.folder / name
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return str(path)

    def __getitem__(self, name):
        return str(self.folder / name)

    def simulate(self, *arguments):
        return invoke(
            *("--devices", self["devices"]),
            *("--profiles", self["profiles"]),
            *("--allocation", self["allocation"]),
            *arguments,
        )

    def figures(self, *arguments):
        result = self.simulate("--json", *arguments)
        assert (result.exit_code, result.stderr) == (0, "")
        return json.loads(result.stdout)["figures"]


def invoke(*arguments):
    return CliRunner().invoke(app, ["simulate", *arguments])


@pytest.fixture
def files(tmp_path):
    return Files(tmp_path)


def test_tables_for_people(files):
    result = files.simulate("--deadline-ms", "50", "--seconds", "4")
    assert (result.exit_code, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    assert lines[0] == (
        "64 connections, 1 row per request; 4 s simulated, figures of the last 3.6 s"
    )
    cells = [[cell.strip() for cell in line.strip("│").split("│")] for line in lines if "│" in line]
    summary = {row[0]: row[1] for row in cells if len(row) == 2}
    assert float(summary["rows/s"]) == pytest.approx(ROWS_S, rel=0.05)
    assert set(summary) >= {"requests/s", "p50 ms", "p99 ms", "later than 50 ms"}
    rows = [row for row in cells if len(row) == 6]
    assert rows[0][:4] == ["cuda:0", "A100", "100.0%", "a x8"]
    assert rows[1][3] == "b x8"


def test_saturated_by_default(files):
    figures = files.figures()
    assert figures["throughput_rows_s"] == pytest.approx(ROWS_S, rel=0.03)
    assert figures["utilisation"] == {"cuda:0": pytest.approx(1), "cuda:1": pytest.approx(1)}


def test_an_allocation_is_searched_if_none_is_given(files):
    result = invoke("--devices", files["devices"], "--profiles", files["profiles"], "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    document = json.loads(result.stdout)
    assert document["allocation"]["members"] == ["a", "b"]
    assert document["figures"]["throughput_rows_s"] == pytest.approx(ROWS_S, rel=0.03)


def test_no_room_for_a_member_is_one_line(files):
    small = [device | {"memory_bytes": 1.5e9} for device in DEVICES["devices"][:1]]
    files.write("devices", {"devices": small})
    result = invoke("--devices", files["devices"], "--profiles", files["profiles"])
    assert (result.exit_code, result.stdout) == (2, "")
    assert "needs" in result.stderr
    assert result.stderr.count("\n") == 1


def test_the_document_tells_what_was_simulated(files):
    result = files.simulate("--json", "--connections", "3", "--rows", "2", "--seed", "5")
    document = json.loads(result.stdout)
    assert document["load"]["connections"] == 3
    assert (document["load"]["rows"], document["seed"]) == (2, 5)
    assert document["allocation"] == ALLOCATION


def test_a_rate_and_a_trace(files):
    assert files.figures("--rate", "50", "--seconds", "100")["requests_s"] == pytest.approx(
        50, rel=0.1
    )
    trace = files.write("trace", "seconds,rows\n0.5\n1.0,3\n")
    figures = files.figures("--trace", trace, "--rows", "2")
    assert figures["answered"] == 2
    assert sum(one["rows"] for one in figures["instances"]) == 2 * (2 + 3)


def test_the_seed_decides(files):
    arguments = ("--rate", "100", "--seconds", "5", "--seed")
    assert files.figures(*arguments, "1") == files.figures(*arguments, "1")
    assert files.figures(*arguments, "1") != files.figures(*arguments, "2")


def test_a_lost_device_costs_its_share(files):
    lost = files.figures("--seconds", "20", "--lose", "cuda:1@0")
    back = files.figures("--seconds", "20", "--lose", "cuda:1@2:11")
    assert lost["throughput_rows_s"] == pytest.approx(ROWS_S / 2, rel=0.05)
    assert lost["utilisation"]["cuda:1"] == 0
    assert back["throughput_rows_s"] == pytest.approx(ROWS_S * 3 / 4, rel=0.05)


def test_a_configuration_and_its_ensembles(tmp_path):
    config = tmp_path / "config.yaml"
    config.write_text("""
members:
  a: {model: fake, fake: {inputs: {x: [4]}, outputs: 2, sleep_ms: 10}}
  b: {model: fake, fake: {inputs: {x: [4]}, outputs: 2, sleep_ms: 10}}
ensembles:
  alone: {members: [a]}
devices: [{name: "cpu:0", memory_bytes: 1 GiB}]
placement: {batch_sizes: [1, 8]}
""")
    searched = invoke(str(config))
    assert (searched.exit_code, searched.stderr) == (0, "")
    assert "a x8" in searched.stdout
    allocation = tmp_path / "allocation.json"
    allocation.write_text(
        json.dumps({"members": ["a", "b"], "devices": ["cpu:0"], "matrix": [[1, 1]]})
    )
    result = invoke(str(config), "--allocation", str(allocation), "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    figures = json.loads(result.stdout)["figures"]
    assert figures["throughput_rows_s"] == pytest.approx(100, rel=0.06)
    assert [one["rows"] > 0 for one in figures["instances"]] == [True, False]


@pytest.mark.parametrize(
    "arguments",
    [
        ("--lose", "cuda:1"),
        ("--lose", "@3"),
        ("--lose", "cuda:1@soon"),
        ("--lose", "cuda:1@3:2"),
        ("--lose", "cuda:7@3"),
        ("--rate", "0"),
        ("--rate", "5", "--connections", "5"),
        ("--seconds", "0"),
        ("--deadline-ms", "-1"),
        ("--trace", "absent.csv"),
    ],
)
def test_what_makes_no_sense_is_one_line(files, arguments):
    result = files.simulate(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        ("devices", "{", "devices: is not JSON"),
        ("devices", {"devices": []}, "devices: Expected `array` of length >= 1"),
        ("devices", {"devices": DEVICES["devices"][:1]}, "device 'cuda:1' is not there"),
        ("devices", {"devices": DEVICES["devices"] * 2}, "device 'cuda:0' is there twice"),
        ("profiles", {"profiles": [1]}, "profiles[0]: Expected `object`, got `int`"),
        ("allocation", ALLOCATION | {"matrix": [[8, 8]]}, "1 rows for 2 devices"),
        ("allocation", ALLOCATION | {"matrix": [[8, 8], [8, 7]]}, "no batch size 7 on cuda:1"),
    ],
)
def test_files_that_do_not_fit(files, name, content, text):
    files.write(name, content)
    result = files.simulate()
    assert (result.exit_code, result.stdout) == (2, "")
    assert files[name] in result.stderr or name == "devices"
    assert text in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "arguments", [(), ("--devices", "d"), ("c.yaml", "--profiles", "p"), ("absent.yaml",)]
)
def test_something_must_be_simulated(arguments):
    result = invoke(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.count("\n") == 1
