import pytest
from profiled import CPU, GPU, MIB, batches, fake, member, profiled

from server.profiling.comparison import preferred_batch
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


def test_without_time_everything_is_predicted(model, script, cache):
    nobody = script({})
    heavy = member("heavy", model, parameter_bytes=20 * MIB)
    found = profiled([member("m", model), heavy], [CPU, GPU], batches=[1, 4, 32, 64], budget_s=0)
    assert nobody.started == []
    assert not cache.exists() or not list(cache.iterdir())
    assert set(found.estimated) == {(m, k) for m in ("m", "heavy") for k in ("cpu-1", GPU.kind)}
    assert (found.measured, found.from_cache, found.missing) == (0, 0, ())
    assert all(batches(found, m, k) == [1, 4, 32, 64] for m, k in found.estimated)
    assert found.predicted == len(found.profiles) == 16
    four, on_gpu = (found.profiles.of("heavy", kind)[4] for kind in ("cpu-1", GPU.kind))
    low, high = four.interval_bytes
    assert low < 20 * MIB < four.memory_bytes < 80 * MIB < high
    assert four.interval_s[0] < four.latency_s < four.interval_s[1]
    assert four.latency_s > on_gpu.latency_s


def test_without_measurements_no_large_batch_is_clearly_better(model, script):
    script({})
    found = profiled([member("m", model, parameter_bytes=20 * MIB)], batches=[1, 32], budget_s=0)
    rates = {size: one.rows_per_s for size, one in found.profiles.of("m", "cpu-1").items()}
    assert rates[32] > rates[1]
    assert preferred_batch(rates, found.noise["m", "cpu-1"]) == 1


def test_predictions_go_by_what_was_measured_on_this_kind(model, script):
    script({1: 0.1})
    small = member("m", model, parameter_bytes=MIB)
    large = member("large", write_onnx(model.with_name("n.onnx"), operator="Neg"),
                   parameter_bytes=10 * MIB)  # fmt: skip
    before = profiled([large], batches=[1], budget_s=0).profiles.of("large", "cpu-1")[1]
    profiled([small], batches=[1])
    found = profiled([small, large], batches=[1], budget_s=0)
    assert found.estimated == (("large", "cpu-1"),)
    after = found.profiles.of("large", "cpu-1")[1]
    assert 3 * before.latency_s < after.latency_s < after.interval_s[1]


def test_predictions_multiply_by_the_variants_of_augmentation(model, script):
    script({})
    members = [
        member("plain", model, parameter_bytes=200 * MIB),
        member("both", model, parameter_bytes=200 * MIB, augment=["identity"] * 3),
    ]
    found = profiled(members, batches=[64], budget_s=0)
    plain, both = (found.profiles.of(name, "cpu-1")[64] for name in ("plain", "both"))
    assert both.latency_s == pytest.approx(3 * plain.latency_s, rel=0.03)
