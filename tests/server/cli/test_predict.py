"""`ensembled predict` against a running server: tables, JSON, and what goes wrong."""

import json

import numpy as np
import pytest
from serving import configuration, fake, running
from typer.testing import CliRunner

from server.cli.main import app

pytestmark = pytest.mark.process

LABELS = ("cat", "dog")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    directory = tmp_path_factory.mktemp("predict")
    (directory / "labels.txt").write_text("\n".join(LABELS))
    members = {
        name: {**fake(add), "output": "logits", "labels": "labels.txt"}
        for name, add in (("a", 0.0), ("b", 1.0))
    }
    members["odd"] = {**fake(inputs=2), "labels": "labels.txt", "output": "logits"}
    members |= {"low": fake(-1), "high": fake(1)}
    normal = {"output": "normal", "spread": "log_variance"}
    members |= {name: {**fake(add), **normal} for name, add in (("n", 0), ("m", 2))}
    config = configuration(members)
    config["ensembles"] = {
        "pets": {"members": ["a", "b", "odd"]},
        "levels": {"members": ["low", "high"]},
        "numbers": {"members": ["n", "m"], "rule": "mixture"},
    }
    with running(config, directory) as server:
        yield server


@pytest.fixture(params=["http", "grpc"])
def url(request, server):
    return server.url if request.param == "http" else f"grpc://{server.grpc}"


@pytest.fixture
def one_row(tmp_path):
    path = tmp_path / "x.npy"
    np.save(path, np.array([[0.0, 2.0]], np.float32))
    return str(path)


def run(*arguments):
    result = CliRunner().invoke(app, ["predict", *arguments])
    return result


def test_a_distribution_with_its_parts_and_an_interval(url, one_row):
    result = run("numbers", one_row, "--url", url, "--coverage", "0.9")
    assert result.exit_code == 0, result.output
    (line,) = (line for line in result.stdout.splitlines() if "±" in line)
    cells = [cell.strip() for cell in line.split("│")[2:-1]]
    # Means 0 and 2, variances exp(2) and exp(4).
    assert cells[:3] == ["1", "30.99", "1"]
    low, high = map(float, cells[3].split(" to "))
    assert low < -7 < 9 < high
    assert cells[4:] == ["0 ± 2.72", "2 ± 7.39"]
    document = json.loads(
        run("numbers", one_row, "--url", url, "--coverage", "0.9", "--json").stdout
    )
    assert document["rows"][0]["interval"] == pytest.approx([low, high], rel=1e-3)


def test_a_coverage_that_there_is_not(url, one_row):
    result = run("levels", one_row, "--url", url, "--coverage", "0.9")
    assert result.exit_code == 2
    assert "'levels' has no output 'interval'" in result.stderr


def test_a_table_of_classes_and_how_much_the_members_agree(url, one_row):
    result = run("pets", one_row, "--url", url)
    assert result.exit_code == 0, result.output
    assert "members a, b, odd" in result.stdout
    dog, cat = (line for line in result.stdout.splitlines() if "%" in line and "│" in line)
    assert "dog" in dog
    assert dog.count("88.1%") == 4, "of the ensemble and each of three members"
    assert "cat" in cat
    assert "3 of 3 members say dog; entropy 0.37 nats, of which 0.00 between" in result.stdout


def test_only_the_best_and_only_some_members(url, one_row):
    result = run("pets", one_row, "--url", url, "--top", "1", "--members", "b,a")
    assert "members a, b," in result.stdout
    assert "cat" not in result.stdout
    assert "2 of 2 members say dog" in result.stdout


def test_a_member_by_itself_has_nobody_to_agree_with(url, one_row):
    result = run("a", one_row, "--url", url)
    assert result.exit_code == 0, result.output
    assert "member a," in result.stdout
    assert "dog" in result.stdout
    assert "members say" not in result.stdout


def test_values(url, one_row):
    result = run("levels", one_row, "--url", url)
    rows = [line.split("│")[1:-1] for line in result.stdout.splitlines() if line.startswith("│")]
    assert [[cell.strip() for cell in row] for row in rows] == [
        ["0", "0", "-1", "1"],
        ["1", "2", "1", "3"],
    ]


def test_many_rows_have_a_line_each(url, tmp_path):
    path = tmp_path / "rows.json"
    path.write_text(json.dumps([[row, 0] for row in range(-3, 4)]))
    result = run("pets", str(path), "--url", url)
    lines = [line for line in result.stdout.splitlines() if "rows.json[" in line]
    assert ["cat" in line for line in lines] == [False] * 3 + [True] * 4
    assert "mutual information" in result.stdout


@pytest.mark.parametrize("data", ["[[0, 2], [1, 0]]", '{"x": [[0, 2], [1, 0]]}'])
def test_rows_on_the_command_line(url, data):
    result = run("pets", "--data", data, "--url", url, "--json")
    assert result.exit_code == 0, result.output
    rows = json.loads(result.stdout)["rows"]
    assert [row["input"] for row in rows] == ["data[0]", "data[1]"]
    assert [row["top"][0]["label"] for row in rows] == ["dog", "cat"]


def test_json_is_all_that_is_on_stdout(url, one_row, tmp_path):
    other = tmp_path / "y.npz"
    np.savez(other, x=np.array([[3.0, 0.0], [0.0, 3.0]], np.float32))
    result = run("pets", one_row, str(other), "--url", url, "--json", "--top", "1")
    document = json.loads(result.stdout)
    assert document["ensemble"] == "pets"
    first, second, third = document["rows"]
    assert first["input"] == one_row
    assert second["input"] == f"{other}[0]"
    assert [row["top"][0]["label"] for row in (first, second, third)] == ["dog", "cat", "dog"]
    assert first["members"] == ["a", "b", "odd"]
    assert set(first["member_values"]) == {"a", "b", "odd"}
    assert first["uncertainty"]["vote_share"] == 1.0
    assert first["values"] == pytest.approx([0.119203, 0.880797], abs=1e-5)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["nobody", "{x}"], "unknown model: 'nobody'"),
        (["pets", "no/such.npy"], "there is no file no/such.npy"),
        (["pets", "{x}", "--members", "a,z"], "no member 'z'"),
        (["pets", "{x}", "--quorum", "9"], "quorum of 9"),
        (["pets", "{bad}"], "bad.npy"),
        (["pets", "{wide}"], "shape"),
        (["pets"], "give files, or --data"),
        (["pets", "{x}", "--data", "[[0, 2]]"], "give files, or --data"),
        (["pets", "--data", "[[0, 2]"], "--data: is not JSON"),
        (["pets", "--data", '{{"y": [[0, 2]]}}'], "'x'"),
    ],
)
def test_mistakes_are_one_line_each(url, one_row, tmp_path, arguments, complaint):
    (tmp_path / "bad.npy").write_bytes(b"no array")
    np.save(tmp_path / "wide.npy", np.zeros((1, 5), np.float32))
    files = {"x": one_row, "bad": tmp_path / "bad.npy", "wide": tmp_path / "wide.npy"}
    arguments = [argument.format(**files) for argument in arguments]
    result = run(*arguments, "--url", url)
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    assert complaint in line


def test_nobody_listens(one_row):
    result = run("pets", one_row, "--url", "http://127.0.0.1:9", "--timeout", "0.2")
    assert result.exit_code == 1
    assert "http://127.0.0.1:9" in result.stderr
    result = run("pets", one_row, "--url", "ftp://127.0.0.1:9")
    assert result.exit_code == 2
    assert "is not the URL of a server" in result.stderr
