"""`ensembled import`: what a model is, and the entry that serves it."""

import joblib
import pytest
import yaml
from sklearn.linear_model import LogisticRegression
from typer.testing import CliRunner

from server.cli.main import app
from tests.support.trained import boosted_people, iris, people_pipeline, saved
from tests.workers.model_files import write_onnx

RUNNER = CliRunner()


def run(*arguments, code=0):
    found = RUNNER.invoke(app, ["import", *map(str, arguments)])
    assert found.exit_code == code, found.output
    return found.output if code == 0 else found.stderr


def test_the_entry_of_a_pipeline(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    saved(people_pipeline(), tmp_path / "people.skops")
    text = run("people.skops")
    assert yaml.safe_load(text) == {"members": {"people": {"model": {"sklearn": "people.skops"}}}}
    what, inputs, outputs, *_ = text.splitlines()
    assert what.startswith("# people.skops: a scikit-learn model (skops), ")
    assert what.endswith("; needs ensembled[sklearn]")
    assert inputs == "# inputs: sex BYTES [-1], age FP64 [-1], deck FP64 [-1], port BYTES [-1]"
    assert outputs == "# outputs: predict_proba FP64 [-1, 2], probabilities of no, yes"


def test_it_is_added_to_a_configuration(tmp_path):
    config = tmp_path / "config.yaml"
    config.write_text("members:\n  a: {model: a.onnx}  # kept\nserver: {http_port: 1}\n")
    (tmp_path / "models").mkdir()
    saved(boosted_people("lightgbm"), tmp_path / "models" / "my trees.txt")
    text = run(tmp_path / "models" / "my trees.txt", "--config", config)
    assert "added to" in text
    assert "  a: {model: a.onnx}  # kept\n" in config.read_text()
    assert yaml.safe_load(config.read_text())["members"] == {
        "a": {"model": "a.onnx"},
        "my-trees": {"model": {"lightgbm": "models/my trees.txt"}},
    }
    again = run(tmp_path / "models" / "my trees.txt", "--config", config, code=2)
    assert "there is a member 'my-trees' already, choose another name" in again
    run(tmp_path / "models" / "my trees.txt", "--config", tmp_path / "new.yaml", "--name", "t")
    assert list(yaml.safe_load((tmp_path / "new.yaml").read_text())["members"]) == ["t"]


def test_one_of_several_outputs_is_chosen(tmp_path):
    path = write_onnx(tmp_path / "net.onnx", outputs=("y", "z"))
    assert "has 2 outputs, name the one to use by output_name: y, z" in run(path, code=2)
    entry = yaml.safe_load(run(path, "--output-name", "z"))["members"]["net"]
    assert entry["output_name"] == "z"


def test_a_pickle_needs_trust(tmp_path):
    x, y = iris()
    path = tmp_path / "model.joblib"
    joblib.dump(LogisticRegression(max_iter=500).fit(x, y), path)
    assert "is a pickle, which can run any code" in run(path, code=2)
    text = run(path, "--trust-pickle")
    assert "runs whatever code is in it" in text
    assert yaml.safe_load(text)["members"]["model"]["model"]["trust_pickle"] is True


def test_the_class_in_a_python_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rules.py").write_text(
        "class Helper: ...\n"
        "class Rules:\n"
        "    inputs = {'x': ('FP32', [2])}\n"
        "    def predict(self, x):\n"
        "        return x\n"
    )
    entry = yaml.safe_load(run("rules.py"))["members"]["rules"]
    assert entry == {"model": {"python": "rules.py:Rules"}}
    assert yaml.safe_load(run("rules.py:Rules"))["members"]["rules"] == entry
    (tmp_path / "none.py").write_text("x = 1\n")
    assert "no class with predict" in run("none.py", code=2)


def test_the_latest_version_of_a_triton_model(tmp_path):
    for version in (2, 10, "2nd"):
        (tmp_path / "net" / str(version)).mkdir(parents=True)
        write_onnx(tmp_path / "net" / str(version) / "model.onnx")
    (tmp_path / "net" / "config.pbtxt").write_text("")
    assert "10/model.onnx" in run(tmp_path / "net")


@pytest.mark.parametrize(
    ("name", "content", "fix"),
    [
        ("a.h5", b"\x89HDF\r\n", "open it with Keras and save it as .keras"),
        ("a.txt", b"hello", "export it to ONNX"),
        ("a.cbm", b"CBM1", "catboost"),
    ],
)
def test_what_can_not_be_served_has_a_fix(name, content, fix, tmp_path):
    (tmp_path / name).write_bytes(content)
    assert fix in run(tmp_path / name, code=2)


def test_no_such_file(tmp_path):
    assert "No such file or directory" in run(tmp_path / "none.onnx", code=2)
