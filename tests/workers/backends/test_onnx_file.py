import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.workers.model_files import CPU, onnx_source, write_external_onnx, write_onnx
from workers import backends
from workers.backends import ModelError
from workers.backends.onnx_file import OnnxFileError, external_files

NAMES = ["weights.bin", "one/two/layer.0", "m.onnx.data"]


@pytest.mark.parametrize("hidden", [False, True])
def test_external_weights_are_found_wherever_they_are(tmp_path, hidden):
    path = write_external_onnx(tmp_path / "m.onnx", [*NAMES, NAMES[0]], hidden=hidden)
    files = [tmp_path / name for name in NAMES]
    assert sorted(external_files(path)) == sorted(files)


def test_they_count_as_the_model_s_weights(tmp_path):
    path = write_external_onnx(tmp_path / "m.onnx", NAMES)
    model = backends.load(onnx_source(path), CPU)
    assert model.signature.parameter_bytes == path.stat().st_size + 16 * len(NAMES)
    (output,) = model.predict([np.zeros((2, 4), np.float32)])
    np.testing.assert_array_equal(output, np.full((2, 4), 3))


def test_a_model_with_its_weights_inside_has_none(tmp_path):
    """Also if something in it is called like the entry of external data."""
    path = write_onnx(tmp_path / "m.onnx", outputs=["location"])
    assert external_files(path) == ()
    large = onnx.numpy_helper.from_array(np.full((64, 64), 0x0A0A0A0A, np.int32), "w")
    model = onnx.load(path)
    model.graph.initializer.append(large)
    onnx.save(model, path)
    assert external_files(path) == ()


@pytest.mark.parametrize("location", ["../w.bin", "a/../../w.bin", "/etc/w.bin", "", ".."])
def test_locations_outside_the_directory_are_refused(tmp_path, location):
    (tmp_path / "models").mkdir()
    path = write_external_onnx(tmp_path / "models/m.onnx", ["missing"])
    model = onnx.load(path, load_external_data=False)
    model.graph.initializer[0].external_data[0].value = location
    path.write_bytes(model.SerializeToString())
    with pytest.raises(OnnxFileError, match="not in the directory"):
        external_files(path)
    with pytest.raises(ModelError, match="member m .*m.onnx.: keeps weights in"):
        backends.load(onnx_source(path), CPU)


def test_missing_weights_are_named(tmp_path):
    path = write_external_onnx(tmp_path / "m.onnx", ["weights.bin", "sub/missing.bin"])
    with pytest.raises(ModelError, match=r"keeps weights in .*/sub/missing.bin, which does not"):
        backends.load(onnx_source(path), CPU)


@given(data=st.data())
def test_any_damage_is_read_or_means_none(tmp_path_factory, data):
    path = write_external_onnx(tmp_path_factory.mktemp("d") / "m.onnx", ["w.bin"])
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(0, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        files = external_files(path)
    except OnnxFileError:
        return
    assert all(file.is_relative_to(path.parent) for file in files)


def test_a_file_that_changes_is_read_again(tmp_path):
    path = write_external_onnx(tmp_path / "m.onnx", ["w.bin"])
    assert external_files(path) == (tmp_path / "w.bin",)
    write_external_onnx(path, ["v.bin", "w.bin"])
    assert external_files(path) == (tmp_path / "v.bin", tmp_path / "w.bin")
