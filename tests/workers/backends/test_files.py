"""The files that a model's answers depend on, and their bytes."""

import msgspec

from workers.backends.files import model_files, source_bytes
from workers.runtime.spec import ModelSource, PythonSource


def python(directory, target, **fields):
    made = PythonSource(target, directory=str(directory), **fields)
    return ModelSource("m", "python", python=made)


def test_those_of_a_class_are_its_source_and_weights(tmp_path):
    (tmp_path / "mine.py").write_text("import beside, numpy\nclass Net: pass")
    (tmp_path / "beside.py").write_text("import further")
    (tmp_path / "further.py").write_text("import mine")
    (tmp_path / "w.pt").write_bytes(b"12345")
    code = [tmp_path / name for name in ("mine.py", "beside.py", "further.py")]
    weights = str(tmp_path / "w.pt")
    for target in ("mine:Net", f"{tmp_path}/mine.py:Net"):
        assert model_files(python(tmp_path, target)) == code
        assert source_bytes(python(tmp_path, target)) == 0
        weighted = python(tmp_path, target, weights=weights)
        assert model_files(weighted) == [tmp_path / "w.pt", *code]
        assert source_bytes(weighted) == 5


def test_what_can_t_be_found_or_read_as_python_is_left_out(tmp_path):
    (tmp_path / "broken.py").write_text("def (")
    assert model_files(python(tmp_path, "broken:Net")) == []
    assert model_files(python(tmp_path, "nowhere:Net")) == []
    assert model_files(python(tmp_path, "math:sqrt")) == []


def test_those_of_a_directory_are_all_in_it(tmp_path):
    (tmp_path / "inner").mkdir()
    (tmp_path / "a.bin").write_bytes(b"12")
    (tmp_path / "inner" / "b.bin").write_bytes(b"345")
    made = PythonSource("workers.adapters.transformers:TransformersModel", extra="transformers")
    source = ModelSource("m", "python", str(tmp_path), python=made)
    assert model_files(source) == [tmp_path / "a.bin", tmp_path / "inner" / "b.bin"]
    assert source_bytes(source) == 5
    assert source_bytes(msgspec.structs.replace(source, path="")) == 0
