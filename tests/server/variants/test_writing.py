"""Copies get to where they stay without a moment in which half of one is there."""

import shutil
from types import SimpleNamespace

import pytest

from server.variants.comparison import CheckedCopy
from server.variants.copies import Copy
from server.variants.writing import move_models

MEMBER = SimpleNamespace(name="a", config=SimpleNamespace(model=None), labels=())


@pytest.fixture
def checked(tmp_path):
    """A new copy with weights in a file of their own; an older one is where it is to stay."""
    for folder, content in (("made", "new"), ("kept", "old")):
        (tmp_path / folder).mkdir()
        for name in ("a-int8.onnx", "a-int8.onnx.data"):
            (tmp_path / folder / name).write_text(content)
    copy = Copy(MEMBER, "int8", tmp_path / "made" / "a-int8.onnx")
    return CheckedCopy(copy, (2, 1), None, None, {})


def test_a_copy_moves_with_what_lies_beside_it(checked, tmp_path):
    (moved,) = move_models([checked], tmp_path / "kept")
    assert moved.copy.path == tmp_path / "kept" / "a-int8.onnx"
    found = {path.name: path.read_text() for path in (tmp_path / "kept").iterdir()}
    assert found == {"a-int8.onnx": "new", "a-int8.onnx.data": "new"}


def test_what_is_there_stays_whole_until_all_of_the_new_file_is(checked, tmp_path, monkeypatch):
    def fill_the_disk(_, target):
        target.write_text("ne")
        raise OSError("the disk is full")

    monkeypatch.setattr(shutil, "move", fill_the_disk)
    with pytest.raises(OSError, match="full"):
        move_models([checked], tmp_path / "kept")
    assert (tmp_path / "kept" / "a-int8.onnx").read_text() == "old"
