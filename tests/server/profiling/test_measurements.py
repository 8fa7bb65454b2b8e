import pytest
from profiled import CPU, GPU, MIB, batches, fake, member, profiled

from tests.workers.model_files import write_onnx


def test_fakes_are_known_without_a_process(script):
    nobody = script({})
    found = profiled([fake("a", sleep_ms=5), fake("b", fail="alloc")], [CPU, GPU])
    assert nobody.started == []
    assert (found.measured, found.from_cache, found.missing, found.estimated) == (0, 0, (), ())
    assert [one.latency_s for one in found.profiles.of("a", "cpu-1").values()] == [0.00502] * 3
    assert batches(found, "b", "NVIDIA H200") == [1, 2, 4]
    assert found.worker_bytes == {}
    assert set(found.colocation.values()) == {1.0}


def test_without_time_everything_is_estimated(model, script, cache):
    nobody = script({})
    heavy = member("heavy", model, parameter_bytes=20 * MIB)
    found = profiled([member("m", model), heavy], [CPU, GPU], batches=[1, 4, 32, 64], budget_s=0)
    assert nobody.started == []
    assert not cache.exists() or not list(cache.iterdir())
    assert set(found.estimated) == {(m, k) for m in ("m", "heavy") for k in ("cpu-1", GPU.kind)}
    assert (found.measured, found.from_cache, found.missing) == (0, 0, ())
    assert batches(found) == [1, 4, 32]
    assert batches(found, "heavy") == [1, 4]
    assert batches(found, "heavy", GPU.kind) == [1, 4, 32]
    four = found.profiles.of("heavy", "cpu-1")[4]
    assert four.memory_bytes == 40 * MIB + 4 * 32 * 16
    assert four.latency_s > found.profiles.of("heavy", GPU.kind)[4].latency_s


def test_estimates_go_by_what_was_measured_on_this_kind(model, script):
    script({1: 0.1})
    small = member("m", model, parameter_bytes=MIB)
    large = member("large", write_onnx(model.with_name("n.onnx"), operator="Neg"),
                   parameter_bytes=10 * MIB)  # fmt: skip
    profiled([small], batches=[1])
    found = profiled([small, large], batches=[1], budget_s=0)
    assert found.estimated == (("large", "cpu-1"),)
    assert found.profiles.of("large", "cpu-1")[1].latency_s == pytest.approx(1.0, rel=0.01)


def test_estimates_multiply_by_the_variants_of_augmentation(model, script):
    script({})
    members = [
        member("plain", model, parameter_bytes=20 * MIB),
        member("both", model, parameter_bytes=20 * MIB, augment=["identity"] * 3),
    ]
    found = profiled(members, batches=[4], budget_s=0)
    plain, both = (found.profiles.of(name, "cpu-1")[4] for name in ("plain", "both"))
    assert both.latency_s == pytest.approx(3 * plain.latency_s, rel=0.01)
    assert both.memory_bytes == 40 * MIB + 3 * 4 * 32 * 16
