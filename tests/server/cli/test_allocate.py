import json
import xml.etree.ElementTree as ET

import pytest
from typer.testing import CliRunner

from allocator.matrix import AllocationMatrix
from server.cli.main import app

DEVICES = {
    "devices": [{"name": f"cuda:{i}", "kind": "V100", "memory_bytes": 16 * 10**9} for i in range(3)]
}
PROFILES = {
    "profiles": [
        {
            "member": member,
            "device_kind": "V100",
            "batch": batch,
            "latency_s": seconds * (1 + batch),
            "memory_bytes": 10**9 * batch,
        }
        for member, seconds in (("a", 0.01), ("b", 0.02))
        for batch in (1, 4, 8)
    ]
}
CONFIG = """
ensembles: {both: {members: [a, b], rule: mean}}
members:
  a: {model: fake, fake: {inputs: {x: [4]}, outputs: 2, sleep_ms: 10}}
  b: {model: fake, fake: {inputs: {x: [4]}, outputs: 2, sleep_ms: 20}}
devices: [{name: "cpu:0", cores: [0]}]
placement: {batch_sizes: [1, 8]}
"""


class Files:
    def __init__(self, folder):
        self.folder = folder
        self.write("devices", DEVICES)
        self.write("profiles", PROFILES)

    def write(self, name, content):
        path = self.folder / name
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return str(path)

    def allocate(self, *arguments):
        files = ("--devices", str(self.folder / "devices"))
        return invoke(*files, "--profiles", str(self.folder / "profiles"), *arguments)


def invoke(*arguments):
    return CliRunner().invoke(app, ["allocate", *arguments])


@pytest.fixture
def files(tmp_path):
    return Files(tmp_path)


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(CONFIG)
    return str(path)


def test_json_alone_on_stdout_as_documented(files):
    result = files.allocate("--json")
    assert (result.exit_code, result.stderr) == (0, "")
    document = json.loads(result.stdout)
    assert set(document) == {
        *("members", "devices", "matrix", "solver", "throughput_rows_s", "bound_rows_s", "gap"),
        *("elapsed_s", "time_limited", "baselines", "corrections"),
    }
    assert document["members"] == ["a", "b"]
    assert document["devices"] == ["cuda:0", "cuda:1", "cuda:2"]
    assert set(document["baselines"]) == {"worst_fit", "batch_only", "greedy"}
    assert document["corrections"] == []
    # The plain model holds exactly: three devices, a and b at batch size 8, 1.125 and 2.25 times
    # their seconds per row.
    best = 3 / (0.01 * 9 / 8 + 0.02 * 9 / 8)
    assert document["throughput_rows_s"] == pytest.approx(best, rel=1e-3)
    assert document["bound_rows_s"] == pytest.approx(best, rel=1e-3)
    gap = 1 - document["throughput_rows_s"] / document["bound_rows_s"]
    assert document["gap"] == pytest.approx(gap, abs=1e-9)
    assert document["baselines"]["worst_fit"] == pytest.approx(1 / 0.04)
    AllocationMatrix.from_json(result.stdout)


@pytest.mark.parametrize("solver", ["worst-fit", "greedy", "exact", "auto"])
def test_every_solver(files, solver):
    document = json.loads(files.allocate("--json", "--solver", solver).stdout)
    assert document["solver"] == (solver if solver != "auto" else "exact")
    assert document["throughput_rows_s"] <= document["bound_rows_s"]


def test_the_same_seed_gives_the_same_result(files):
    first, second = (json.loads(files.allocate("--json", "--seed", "4").stdout) for _ in range(2))
    assert not first["time_limited"]
    del first["elapsed_s"], second["elapsed_s"]
    assert first == second


def test_tables_for_people(files):
    result = files.allocate()
    assert (result.exit_code, result.stderr) == (0, "")
    text = result.stdout
    for part in ("allocation matrix", "cuda:2", "V100", "gap", "limited by: the time of"):
        assert part in text
    assert "compared: worst-fit 25 rows/s (3.56 x)" in text


def test_output_is_what_stdout_would_be_and_plots_are_drawn(files, tmp_path):
    out, svg, png = (tmp_path / name for name in ("a.json", "a.svg", "a.png"))
    result = files.allocate("--json", "--output", str(out), "--plot", str(svg))
    assert result.exit_code == 0
    assert json.loads(out.read_text()) == json.loads(result.stdout)
    assert ET.parse(svg).getroot().tag.endswith("svg")
    assert files.allocate("--plot", str(png)).exit_code == 0
    assert png.read_bytes().startswith(b"\x89PNG")


def test_a_plot_of_the_same_is_the_same_file(files, tmp_path):
    first, second = tmp_path / "1.svg", tmp_path / "2.svg"
    for path in (first, second):
        assert files.allocate("--plot", str(path)).exit_code == 0
    assert first.read_bytes() == second.read_bytes()


def test_no_room_is_one_line_that_names_member_and_shortfall(files):
    pool = {"devices": [{"name": "cuda:0", "kind": "V100", "memory_bytes": 15 * 10**8}]}
    files.write("devices", pool)
    result = files.allocate("--json")
    assert (result.exit_code, result.stdout) == (2, "")
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: member 'b' needs 953.7 MiB at batch size 1, short of 476.8 MiB")


def test_a_member_without_a_profile_for_any_device(files):
    pool = {"devices": [{"name": "cuda:0", "kind": "T4", "memory_bytes": 10**9}]}
    files.write("devices", pool)
    result = files.allocate()
    assert result.exit_code == 2
    assert "'a' has no profile for any of the devices" in result.stderr


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("devices", "{", "is not JSON"),
        ("devices", {"devices": []}, "devices: Expected `array` of length >= 1"),
        ("devices", {"devices": [{"name": "a", "kind": "b"}]}, "field `memory_bytes`"),
        ("devices", {"devices": [*DEVICES["devices"], DEVICES["devices"][0]]}, "there twice"),
        (
            "devices",
            {"devices": [DEVICES["devices"][0] | {"memory_bytes": -5}]},
            "devices[0].memory_bytes: Expected `float` >= 0",
        ),
        (
            "devices",
            {"devices": [DEVICES["devices"][0] | {"memory_bytes": 10**30}]},
            "devices[0].memory_bytes: Expected `float` <= ",
        ),
        ("profiles", {"profiles": {}}, "profiles: Expected `array`, got `object`"),
        ("profiles", {"profiles": [PROFILES["profiles"][0]] * 2}, "batch 1 is there twice"),
        (
            "profiles",
            {"profiles": [PROFILES["profiles"][0] | {"latency_s": 0}]},
            "latency_s should be above 0",
        ),
    ],
)
def test_a_wrong_file_is_named_in_one_line(files, name, content, words):
    path = files.write(name, content)
    result = files.allocate()
    assert (result.exit_code, result.stdout) == (2, "")
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"error: {path}: ")
    assert words in line


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--plot", "a.pdf"], "should end in .svg or .png"),
        (["--output", "absent/a.json"], "there is no directory absent"),
        (["--deadline-ms", "5"], "--deadline-ms needs --rate"),
        (["--rate", "5", "--solver", "exact"], "drop --solver"),
        (["--min-rows-per-s", "5", "--solver", "exact"], "energy has a search of its own"),
        (["--min-rows-per-s", "5", "--rate", "5"], "drop one of them"),
        (["--min-rows-per-s", "5"], "profiles: the energy of member 'a' is not known"),
    ],
)
def test_what_makes_no_sense_is_one_line(files, arguments, words):
    result = files.allocate(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    (line,) = result.stderr.splitlines()
    assert words in line


def test_either_a_configuration_or_files(files, config):
    for arguments in ([], [config, "--devices", "d"], ["--devices", "d"]):
        result = invoke(*arguments)
        assert result.exit_code == 2
        assert "either CONFIG, or both" in result.stderr


@pytest.mark.slow
def test_latency_for_a_rate(files):
    result = files.allocate("--json", "--rate", "20", "--deadline-ms", "200")
    document = json.loads(result.stdout)
    assert document["solver"] == "simulated"
    assert document["simulated"]["late_share"] < 0.05
    assert "simulated: " in files.allocate("--rate", "20").stdout


def test_the_fewest_joules_for_so_many_rows(files):
    profiles = [
        one
        | {"device_kind": kind, "latency_s": one["latency_s"] / speed, "joules": one["batch"] * j}
        for one in PROFILES["profiles"]
        for kind, speed, j in (("V100", 2, 3.0), ("T4", 1, 1.0))
    ]
    files.write("profiles", {"profiles": profiles})
    pool = [{"name": kind, "kind": kind, "memory_bytes": 10**11} for kind in ("V100", "T4")]
    files.write("devices", {"devices": [one | {"idle_watts": 30} for one in pool]})
    document = json.loads(files.allocate("--json", "--min-rows-per-s", "10").stdout)
    assert document["matrix"][0] == [0, 0]
    energy = document["energy"]
    assert energy["joules_per_row"] == pytest.approx(2, rel=1e-4)
    assert energy["idle_joules_per_row"] == pytest.approx(3)
    assert energy["gap"] < 0.01
    assert energy["fastest_joules_per_row"] > 5
    table = files.allocate("--min-rows-per-s", "10").stdout
    assert "at 10 rows/s: 5 J per row" in table
    result = files.allocate("--min-rows-per-s", "1000")
    assert (result.exit_code, "are possible" in result.stderr) == (2, True)


def test_a_configuration_without_known_energy_says_what_to_do(tmp_path, config):
    result = invoke(config, "--min-rows-per-s", "10")
    assert result.exit_code == 2
    assert "devices[].watts lets it be estimated" in result.stderr
    known = tmp_path / "known.yaml"
    known.write_text(CONFIG.replace("cores: [0]", "cores: [0], watts: 4"))
    document = json.loads(invoke(str(known), "--json", "--min-rows-per-s", "10").stdout)
    assert document["energy"]["joules_per_row"] == pytest.approx(4 * 0.03 / 8, rel=0.02)


def test_a_configuration_is_placed_as_it_would_be_served(config):
    result = invoke(config, "--json")
    assert result.exit_code == 0
    document = json.loads(result.stdout)
    assert (document["devices"], document["matrix"]) == (["cpu:0"], [[8, 8]])
    assert any("each job takes" in line for line in document["corrections"])
    slower = json.loads(invoke(config, "--json", "--rate", "10").stdout)
    assert "simulated" in slower


def test_the_file_is_written_as_the_users_own_programs_do(files, tmp_path):
    target, link = tmp_path / "target.json", tmp_path / "link.json"
    target.write_text("old")
    target.chmod(0o640)
    link.symlink_to(target)
    assert files.allocate("--output", str(link)).exit_code == 0
    assert link.is_symlink()
    assert json.loads(target.read_text())["members"] == ["a", "b"]
    assert target.stat().st_mode & 0o777 == 0o640


def test_names_are_taken_as_they_are(files, tmp_path):
    names = {"a": "[/red]", "b": "x$\\frac$"}
    document = json.dumps(PROFILES)
    for old, new in names.items():
        document = document.replace(f'"member": "{old}"', f'"member": {json.dumps(new)}')
    files.write("profiles", document)
    result = files.allocate("--plot", str(tmp_path / "a.svg"))
    assert (result.exit_code, result.stderr) == (0, "")
    assert all(name in result.stdout for name in names.values())


def test_more_than_any_allocation_can_predict(files):
    result = files.allocate("--rate", "1e6")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "1e+06 rows/s arrive, but at most 88.89 are possible" in result.stderr


def test_a_configuration_keeps_its_deadline(tmp_path):
    path = tmp_path / "config.yaml"
    section = (
        "placement: {batch_sizes: [1, 8], objective: latency, arrival_rows_s: 5, deadline_ms: 1}"
    )
    path.write_text(CONFIG.replace("placement: {batch_sizes: [1, 8]}", section))
    assert "100.00% late" in invoke(str(path)).stdout
    assert "100.00% late" in invoke(str(path), "--rate", "10").stdout
    assert "% late" not in invoke(str(path), "--deadline-ms", "500").stdout


def test_no_place_in_time_is_not_called_impossible(files, tmp_path):
    """Forty bins that only exact triples fill: there is a place, but not in a tenth of a second."""
    sizes = [(501 + i, 499 - 2 * i, i) for i in range(1, 41)]
    files.write(
        "devices",
        {"devices": [{"name": f"d{i}", "kind": "V100", "memory_bytes": 1000} for i in range(40)]},
    )
    entry = {"device_kind": "V100", "batch": 1, "latency_s": 0.1}
    members = [
        entry | {"member": f"m{i}.{j}", "memory_bytes": size}
        for i, triple in enumerate(sizes)
        for j, size in enumerate(triple)
    ]
    files.write("profiles", {"profiles": members})
    result = files.allocate("--json", "--time-limit", "0.1")
    if result.exit_code:  # a fast machine may find one
        assert (result.exit_code, result.stdout) == (2, "")
        assert "more time may help" in result.stderr
