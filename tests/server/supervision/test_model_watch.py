import os

import pytest

from server.supervision.model_watch import ModelWatch
from tests.workers.model_files import CPU, onnx_source, write_external_onnx, write_onnx
from workers import backends
from workers.backends import ModelError
from workers.backends.files import changed_file, stamped


def replace(path, content):
    """Replace a file as a deployment does, by one of another time."""
    new = path.with_suffix(".new")
    new.write_bytes(content)
    before = path.stat().st_mtime_ns
    os.utime(new, ns=(before, before + 1))
    new.rename(path)


@pytest.mark.parametrize("name", ["m.onnx", "weights.bin"])
def test_a_changed_file_is_complained_about_once_and_not_loaded(tmp_path, name):
    path = write_external_onnx(tmp_path / "m.onnx", ["weights.bin"])
    source = stamped(onnx_source(path))
    watch = ModelWatch([source, source])
    assert watch.complaints() == []
    backends.load(source, CPU).close()
    replace(tmp_path / name, (tmp_path / name).read_bytes())
    (line,) = watch.complaints()
    assert line.startswith(f"member m: {tmp_path / name} is not what it was")
    assert watch.complaints() == []
    watch.follow([source])
    assert watch.complaints() == [line]
    with pytest.raises(ModelError, match=f"{name} is not what it was when it was deployed"):
        backends.load(source, CPU)


def test_a_file_that_is_gone_is_noticed(tmp_path):
    path = write_onnx(tmp_path / "m.onnx")
    source = stamped(onnx_source(path))
    path.unlink()
    assert changed_file(source.stamps) == str(path)
    with pytest.raises(ModelError, match=r"m\.onnx is not what it was"):
        backends.load(source, CPU)


def test_what_cannot_be_stamped_is_not_watched(tmp_path):
    source = stamped(onnx_source(tmp_path / "missing.onnx"))
    assert (source.stamps, ModelWatch([source]).complaints()) == ((), [])
