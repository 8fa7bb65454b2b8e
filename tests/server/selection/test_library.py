"""Which members a library has; sections that are written elsewhere; work that some members fail."""

import numpy as np
import pytest
import yaml
from networks import write_linear

from server.config.relocation import relocated_members
from server.errors import ConfigError, StartError
from server.selection.isolation import isolated
from server.selection.library import read_library

ONES = np.ones((2, 3), np.float32)


def write_library(folder, **members):
    path = folder / "library.yaml"
    path.write_text(yaml.safe_dump({"members": members}))
    return path


def test_more_members_than_one_server_has(tmp_path):
    write_linear(tmp_path / "m.onnx", ONES)
    members = {f"m{i}": {"model": "m.onnx"} for i in range(100)}
    library = read_library(write_library(tmp_path, **members))
    assert list(library.config.members) == sorted(members)
    assert not library.left_out


def test_a_grown_directory_a_repository_and_model_files(tmp_path):
    grown, repository, plain = (tmp_path / name for name in ("grown", "repository", "plain"))
    (repository / "a" / "1").mkdir(parents=True)
    (repository / "a" / "2").mkdir()
    for folder in (grown, plain):
        folder.mkdir()
    write_linear(grown / "m.onnx", ONES)
    write_library(grown, m={"model": "m.onnx"})
    for version in ("1", "2"):
        write_linear(repository / "a" / version / "model.onnx", ONES)
    write_linear(plain / "x.onnx", ONES)
    (plain / "notes.txt").write_text("none of ours")
    assert [*read_library(grown).config.members] == ["m"]
    assert [*read_library(repository).config.members] == ["a@1", "a@2"]
    assert [*read_library(plain).config.members] == ["x"]
    with pytest.raises(ConfigError, match="has no folder of a member"):
        read_library(tmp_path / "plain" / "..")


def test_what_is_missing_is_left_out_and_what_is_wrong_is_an_error(tmp_path):
    write_linear(tmp_path / "m.onnx", ONES)
    library = read_library(write_library(tmp_path, m={"model": "m.onnx"}, n={"model": "n.onnx"}))
    assert [*library.config.members] == ["m"]
    assert "there is no file" in library.left_out["n"]
    path = write_library(tmp_path, m={"model": "m.onnx", "outptu": "logits"})
    with pytest.raises(ConfigError, match="members.m.outptu: unknown key, did you mean 'output'"):
        read_library(path)


def test_sections_in_another_directory_mean_the_same(tmp_path):
    for name in ("m.onnx", "n.onnx"):
        write_linear(tmp_path / name, ONES)
    (tmp_path / "code.py").write_text("class Net: pass")
    digest = "0" * 64
    library = read_library(
        write_library(
            tmp_path,
            cat={"model": {"versions": {1: "m.onnx", 2: "n.onnx"}}, "output": "logits"},
            far={"model": {"url": "https://host.example/far.onnx", "sha256": digest}},
            file={"model": {"python": "code.py:Net"}},
            module={"model": {"python": "code:Net"}},
        )
    )
    elsewhere = tmp_path / "a" / "b"
    assert relocated_members(library.config, elsewhere) == {
        "cat": {
            "output": "logits",
            "model": {
                "versions": {
                    "1": {"model": "../../m.onnx"},
                    "2": {"model": "../../n.onnx"},
                }
            },
        },
        "far": {"model": {"url": "https://host.example/far.onnx", "sha256": digest}},
        "file": {"model": {"python": "../../code.py:Net"}},
        "module": {"model": {"python": "../../code.py:Net"}},
    }


@pytest.mark.parametrize("broken", [set(), {"b"}, {"a", "h"}, set("abcdefgh")])
def test_members_that_fail_are_found_among_those_that_do_not(broken):
    def work(names):
        if failing := broken & set(names):
            raise (StartError if "b" in failing else ConfigError)(f"{min(failing)}: it breaks")
        return {name: name.upper() for name in names}

    left_out = {}
    done = isolated([*"abcdefgh"], work, left_out)
    assert done == {name: name.upper() for name in "abcdefgh" if name not in broken}
    assert left_out == dict.fromkeys(sorted(broken), "it breaks")
