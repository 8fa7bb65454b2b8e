from dataclasses import replace

import pytest
from profiled import CORES, MIB, batches, member, profiled

from tests.workers.model_files import write_external_onnx
from workers.runtime.spec import DeviceSpec, ModelSource, PythonSource


@pytest.mark.process
def test_a_second_run_measures_nothing(model, script, cache):
    first = profiled([member("m", model)])
    assert batches(first)
    assert (first.measured, first.from_cache, first.missing) == (1, 0, ())
    assert first.worker_bytes["cpu-1"] > 10 * MIB
    assert first.colocation == {("m", "cpu-1"): 1.0}
    (file,) = cache.iterdir()
    assert file.stat().st_mode & 0o777 == 0o600

    nobody = script({})
    second = profiled([member("m", model)])
    assert nobody.started == []
    assert (second.measured, second.from_cache) == (0, 1)
    assert list(second.profiles) == list(first.profiles)
    assert second.worker_bytes == first.worker_bytes


def test_a_damaged_file_of_the_cache_is_measured_anew(model, script, cache):
    script({1: 0.001})
    profiled([member("m", model)], batches=[1])
    (file,) = cache.iterdir()
    good = file.read_bytes()
    for damage in (b"", good[:-5], b"{}x", good.replace(b'"batch":1', b'"batch":3')):
        file.write_bytes(damage)
        found = profiled([member("m", model)], batches=[1])
        assert (found.measured, found.from_cache) == (1, 0)
        assert file.read_bytes() == good


def test_fresh_measures_what_was_measured_before(model, script):
    script({1: 0.001})
    profiled([member("m", model)], batches=[1])
    script({1: 0.002})
    found = profiled([member("m", model)], batches=[1], fresh=True)
    assert found.measured == 1
    assert (
        profiled([member("m", model)], batches=[1]).profiles.of("m", "cpu-1")[1].latency_s == 0.002
    )


def test_what_measurements_depend_on(model, script, tmp_path):
    script({1: 0.001, 2: 0.001})
    profiled([member("m", model)], batches=[1])
    assert profiled([member("renamed", model)], batches=[1]).from_cache == 1
    assert profiled([member("m", model)], batches=[1, 2]).from_cache == 0
    assert profiled([member("m", model, output="probabilities")], batches=[1]).from_cache == 0
    for augment in (["identity"], ["identity", "identity"]):
        assert profiled([member("m", model, augment=augment)], batches=[1]).from_cache == 0
    other = DeviceSpec("cpu:0", "cpu-2", 1 << 30, tuple(CORES))
    assert profiled([member("m", model)], [other], batches=[1]).from_cache == 0
    external = write_external_onnx(tmp_path / "external.onnx", ["w/weights.bin"])
    assert profiled([member("m", external)], batches=[1]).from_cache == 0
    assert profiled([member("m", external)], batches=[1]).from_cache == 1
    (tmp_path / "w/weights.bin").write_bytes(b"others")
    assert profiled([member("m", external)], batches=[1]).from_cache == 0


def test_what_has_no_room_in_an_arena_depends_on_what_was_asked_for(model, script):
    script({1: 0.01})
    large = member("m", model, elements=MIB)
    small = member("n", model, elements=MIB, batch_size=1)
    found = profiled([large, small], batches=[1, 64])
    assert [name for name, _, _ in found.missing] == ["m"]
    assert batches(found) == batches(found, "n") == [1]


def test_what_measurements_of_a_class_depend_on(script, tmp_path):
    (tmp_path / "mine.py").write_text("import beside\nclass Net: pass")
    (tmp_path / "beside.py").write_text("A = 1")
    (tmp_path / "w.pt").write_bytes(b"1")
    script({1: 0.001})

    def from_cache(**args):
        made = PythonSource("mine:Net", args, str(tmp_path), str(tmp_path / "w.pt"))
        one = member("m", "")
        one = replace(one, source=ModelSource("m", "python", python=made))
        return profiled([one], batches=[1]).from_cache

    assert [from_cache(), from_cache()] == [0, 1]
    assert [from_cache(width=2), from_cache(width=2), from_cache()] == [0, 1, 1]
    for name in ("mine.py", "beside.py", "w.pt"):
        (tmp_path / name).write_text("class Net: A = 2\nimport beside")
        assert [from_cache(), from_cache()] == [0, 1]
