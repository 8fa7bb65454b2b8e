"""Members whose models are recipes."""

from pathlib import Path

import pytest

from server.config import load_config
from server.errors import ConfigError, StartError
from server.members.inspect import inspect_members
from server.members.sources import model_sources

ROOT = Path(__file__).parents[3]


def config(tmp_path, **recipes):
    path = tmp_path / "config.yaml"
    members = [f"  {name}: {{model: {{recipe: '{recipe}'}}}}" for name, recipe in recipes.items()]
    names = ", ".join(recipes)
    path.write_text("\n".join([f"ensembles: {{e: {{members: [{names}]}}}}", "members:", *members]))
    return load_config(path)


def test_recipes_are_built_and_inspected(tmp_path, monkeypatch):
    monkeypatch.setenv("ENSEMBLED_CACHE", str(tmp_path / "cache"))
    recipe = f"{ROOT}/examples/models/mlp.py:mlp_2"
    a, b = inspect_members(config(tmp_path, a=recipe, b=recipe))
    assert a.source.path == b.source.path
    assert a.signature.output.shape == (10,)
    assert [source.backend for source in model_sources(config(tmp_path, a=recipe))] == ["onnx"]


def test_recipes_that_are_not_there(tmp_path):
    with pytest.raises(ConfigError) as caught:
        model_sources(config(tmp_path, a="soup.py:pea", b="soup", c="soup.pea:pea"))
    lines = str(caught.value).splitlines()
    assert [line.partition(" recipe ")[0] for line in lines] == [
        f"members.{name}.model:" for name in "abc"
    ]


def test_a_recipe_that_fails(tmp_path, monkeypatch):
    monkeypatch.setenv("ENSEMBLED_CACHE", str(tmp_path / "cache"))
    (tmp_path / "soup.py").write_text("def pea(path, report): raise ValueError('no salt')")
    with pytest.raises(StartError, match="^recipe pea: no salt$"):
        model_sources(config(tmp_path, a="soup.py:pea"))
