"""`ensembled select` from end to end, on fakes whose logits are the data; wrong arguments."""

import json
import xml.etree.ElementTree as ET

import numpy as np
import psutil
import pytest
import yaml
from serving import title
from typer.testing import CliRunner

from server.cli.main import app

NAMES = ("good", "other", "slow")
ROWS = 120
CPU = [{"name": "cpu:0", "cores": [min(psutil.Process().cpu_affinity())]}]


def member(first, *, sleep_ms=1, outputs=3, output="logits", **options):
    """A member whose logits are one of the inputs, the first of its own."""
    inputs = {name: [3] for name in dict.fromkeys((first, *NAMES))}
    network = {"inputs": inputs, "outputs": outputs, "sleep_ms": sleep_ms, **options}
    return {"model": "fake", "fake": network, "output": output}


MEMBERS = {
    "good": member("good"),
    "other": member("other", sleep_ms=2),
    "slow": member("slow", sleep_ms=20),
}
BROKEN = {
    "nan": member("good", fail="nan"),
    "raw": member("good", output="probabilities"),
    "two": member("good", outputs=2),
    "gone": {"model": "gone.onnx", "output": "logits"},
    "alien": {
        "model": "fake",
        "fake": {"inputs": {"z": [3]}, "outputs": 3},
        "output": "logits",
    },
}


class Files:
    def __init__(self, folder):
        self.folder = folder

    def library(self, members=MEMBERS, **more):
        path = self.folder / "library.yaml"
        # In this order: the first of a fake's inputs is what it answers.
        path.write_text(
            yaml.safe_dump({"members": members, "devices": CPU, **more}, sort_keys=False)
        )
        return path

    def data(self, name="data.npz", **arrays):
        random = np.random.default_rng(0)
        y = random.integers(0, 3, ROWS)
        logits = {
            one: (2 * np.eye(3)[y] + random.normal(0, 1.3, (ROWS, 3))).astype(np.float32)
            for one in NAMES
        }
        given = {**logits, "y": y} | arrays
        np.savez(self.folder / name, **{k: v for k, v in given.items() if v is not None})
        return self.folder / name

    def select(self, *arguments, library=None, data=None):
        command = ["select", library or self.library(), "--data", data or self.data()]
        result = CliRunner().invoke(app, [str(one) for one in (*command, *arguments)])
        assert not any("ensembled" in title(one) for one in psutil.Process().children())
        return result


@pytest.fixture
def files(tmp_path):
    return Files(tmp_path)


@pytest.mark.process
def test_a_library_with_members_that_fail_to_a_configuration_that_can_be_served(files):
    library = files.library({**MEMBERS, **BROKEN}, server={"grpc_port": 0})
    (files.folder / "out").mkdir()
    output, plot, html = (files.folder / "out" / one for one in ("s.yaml", "s.svg", "s.html"))
    written = ("--pick", "best", "--output", output, "--plot", plot, "--html", html)
    result = files.select("--json", "--no-cascades", *written, library=library)
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)

    assert document["left_out"].keys() == BROKEN.keys()
    reasons = document["left_out"]
    assert "not a finite number" in reasons["nan"]
    assert "are they logits?" in reasons["raw"]
    assert "disagree on the shape" in reasons["two"]
    assert "there is no file" in reasons["gone"]
    assert "has no input 'z'" in reasons["alien"]

    assert document["baselines"].keys() == {"best_single", "all", "caruana", "top_k"}
    assert document["baselines"]["all"]["members"] == list(NAMES)
    for point in (*document["front"], document["picked"]):
        low, high = point["quality_interval"]
        assert low <= point["quality"] <= high
        assert sum(point["weights"]) == pytest.approx(1)
        assert point["memory_bytes"] > 0
        assert 0 <= point["gap"] < 0.1
    rates = [point["rows_per_s"] for point in document["front"]]
    assert rates == sorted(rates, reverse=True)
    assert sum(document["rows"].values()) == ROWS

    config = yaml.safe_load(output.read_text())
    assert config["ensembles"]["selected"]["members"] == document["picked"]["members"]
    assert config["members"].keys() == set(document["picked"]["members"])
    assert config["devices"] == CPU
    assert config["server"] == {"grpc_port": 0}
    assert json.loads((output.parent / config["allocation"]).read_text())["members"]
    assert output.read_text().startswith("# Picked by `ensembled select` from library.yaml: best")
    checked = CliRunner().invoke(app, ["check", str(output)])
    assert checked.exit_code == 0, checked.output

    assert ET.parse(plot).getroot().tag.endswith("svg")
    assert "<svg" in html.read_text()


@pytest.mark.process
def test_tables_for_people_with_devices_and_profiles_of_files(files):
    devices, profiles = files.folder / "devices.json", files.folder / "profiles.json"
    pool = [{"name": f"cuda:{i}", "kind": "H200", "memory_bytes": 1 << 30} for i in range(2)]
    devices.write_text(json.dumps({"devices": pool}))
    known = [
        {"member": name, "device_kind": "H200", "batch": 8, "latency_s": 0.01, "memory_bytes": 100}
        for name in NAMES[:2]
    ]
    profiles.write_text(json.dumps({"profiles": known}))
    given = ("--devices", devices, "--profiles", profiles)
    result = files.select(*given, "--test", files.data("test.npz"), "--costs", "rows_per_s,devices")
    assert result.exit_code == 0, result.output
    for part in ("the front", "knee", "best single", "caruana", "has no profile for H200"):
        assert part in result.stdout
    assert f"by {ROWS} rows that nothing was chosen by" in result.stdout

    result = files.select(*given, "--min-rows-per-s", "1e9")
    assert result.exit_code == 2
    assert "the nearest one is" in result.stderr


MISTAKES = [
    ({"y": None}, (), "has no y, the class (or the true numbers) of each row"),
    ({}, ("--output", "x.yaml"), "--output needs --pick"),
    ({}, ("--pick", "0"), "--pick should be knee, best or a number from 1, not '0'"),
    ({}, ("--pick", "knee", "--output", "."), "--output .: is a directory"),
    ({}, ("--html", "."), "--html .: is a directory"),
    ({}, ("--measure", "acuracy"), "did you mean 'accuracy'?"),
    ({}, ("--costs", "rows"), "--costs: there is no cost 'rows'"),
    ({}, ("--max-memory", "8 pears"), "--max-memory should be a number of bytes"),
    ({}, ("--plot", "x.pdf"), "should end in .svg or .png"),
    ({}, ("--devices", "nowhere.json"), "nowhere.json: No such file"),
    ({"good": np.zeros((ROWS, 2))}, (), f"good is [{ROWS}, 2], not [rows, 3]"),
]


@pytest.mark.parametrize(("arrays", "arguments", "problem"), MISTAKES)
def test_mistakes(files, arrays, arguments, problem):
    result = files.select(*arguments, data=files.data(**arrays))
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("error: ")
    assert problem in result.stderr


def test_plots_and_reports_without_their_packages(files, monkeypatch):
    monkeypatch.setattr("server.cli.application.find_spec", lambda name: None)
    monkeypatch.setattr("server.cli.select.find_spec", lambda name: None)
    assert "pip install 'ensembled[plot]'" in files.select("--plot", "x.svg").stderr
    assert "--html needs jinja2 and matplotlib" in files.select("--html", "x.html").stderr


LIBRARIES = [
    ({}, "has no `members:`, the networks to select from"),
    ({"a": {"modle": "x"}}, "members.a.modle: unknown key, did you mean 'model'?"),
    ({"a": BROKEN["gone"]}, "no member is left to select from"),
]


@pytest.mark.parametrize(("members", "problem"), LIBRARIES)
def test_libraries_that_nothing_can_be_selected_from(files, members, problem):
    result = files.select(library=files.library(members))
    assert (result.exit_code, result.stdout) == (2, "")
    assert problem in result.stderr
