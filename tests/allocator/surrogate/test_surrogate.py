import math

import numpy as np
import pytest

from allocator.profiles import Profile
from allocator.surrogate.surrogate import ModelNumbers, Surrogate

KINDS = ("cpu-1", "cpu-4", "gpu")
SPEED = {"cpu-1": 1e11, "cpu-4": 3e11, "gpu": 2e13}
OVERHEAD_S = {"cpu-1": 1e-5, "cpu-4": 1e-5, "gpu": 1e-3}


def models(count=8):
    return {
        f"m{i}": ModelNumbers(
            parameter_bytes=1e7 * (i + 1),
            flops=1e9 * 1.5**i,
            moved_bytes=2e7 * (i + 1),
            peak_bytes=4e6 * (i + 1),
            kernels=50,
        )
        for i in range(count)
    }


def true_profile(name, numbers, kind, batch):
    """A cost that follows no term exactly: each network has a factor of its own."""
    own = 1 + 0.2 * math.sin(7 * numbers.flops)
    latency_s = OVERHEAD_S[kind] + own * batch * numbers.flops / SPEED[kind]
    memory = int(2.2 * numbers.parameter_bytes + 1.5 * batch * numbers.peak_bytes + 1e6)
    return Profile(name, kind, batch, latency_s, memory)


def measured(known, *points):
    return [true_profile(name, known[name], kind, batch) for name, kind, batch in points]


def test_what_was_measured_is_returned_as_it_is():
    known = models(2)
    (one,) = measured(known, ("m0", "cpu-1", 4))
    found = Surrogate(known, KINDS, [one]).predict("m0", "cpu-1", [8, 4])
    assert [each.batch for each in found.profiles] == [4, 8]
    assert found.profiles[0] is one
    assert found.profiles[1].interval_s is not None


def test_two_points_predict_the_batch_sizes_between_and_beyond():
    known = models(2)
    few = measured(known, ("m0", "cpu-1", 1), ("m0", "cpu-1", 16))
    for one in Surrogate(known, KINDS, few).predict("m0", "cpu-1", [4, 32]).profiles:
        true = true_profile("m0", known["m0"], "cpu-1", one.batch)
        assert one.latency_s == pytest.approx(true.latency_s, rel=0.1)
        assert one.interval_s[0] < true.latency_s < one.interval_s[1]
        assert true.memory_bytes <= one.memory_bytes <= 1.5 * true.memory_bytes


def test_members_and_kinds_tell_about_each_other():
    known = models()
    nothing = Surrogate(known, KINDS, []).predict("m0", "gpu", [16]).profiles[0]
    others = measured(known, *((f"m{i}", "gpu", 16) for i in range(1, 6)))
    found = Surrogate(known, KINDS, others).predict("m0", "gpu", [16]).profiles[0]
    true = true_profile("m0", known["m0"], "gpu", 16)

    def width(one):
        return math.log(one.interval_s[1] / one.interval_s[0])

    assert width(found) < width(nothing) / 2
    assert found.interval_s[0] < true.latency_s < found.interval_s[1]


def test_intervals_hold_as_often_as_they_say():
    known, generator, held = models(), np.random.default_rng(0), []
    for _ in range(5):
        points = [
            (name, kind, int(generator.choice([1, 2, 4, 8, 16, 32])))
            for name in known
            for kind in KINDS
            if generator.random() < 0.7
        ]
        surrogate = Surrogate(known, KINDS, measured(known, *points))
        for name in known:
            for kind in KINDS:
                for one in surrogate.predict(name, kind, [1, 2, 4, 8, 16, 32]).profiles:
                    if one.interval_s is not None:
                        true = true_profile(name, known[name], kind, one.batch).latency_s
                        held.append(one.interval_s[0] <= true <= one.interval_s[1])
    assert np.mean(held) > 0.85


def test_weights_alone_leave_more_open_than_work_does():
    known = {"work": models()["m3"], "weights": ModelNumbers(models()["m3"].parameter_bytes, 1e6)}
    surrogate = Surrogate(known, KINDS, [])
    widths = {
        name: np.ptp(np.log(surrogate.predict(name, "cpu-1", [8]).profiles[0].interval_s))
        for name in known
    }
    assert widths["weights"] > widths["work"]


def test_threads_help_by_amdahls_law():
    known = models(2)
    few = measured(known, ("m0", "cpu-1", 8), ("m1", "cpu-1", 8), ("m1", "cpu-4", 8))
    surrogate = Surrogate(known, KINDS, few)
    one, four = (surrogate.predict("m0", kind, [8]).profiles[0] for kind in ("cpu-1", "cpu-4"))
    assert one.latency_s / 4 < four.latency_s < one.latency_s


def test_no_batch_size_is_clearly_the_fastest_before_anything_is_measured():
    doubt = Surrogate(models(1), ("cpu-1",), []).predict("m0", "cpu-1", [1, 32]).doubt
    assert sorted(doubt.values())[0] == 0.0
    assert max(doubt.values()) > 0.1


def test_unknown_members_are_not_predicted():
    with pytest.raises(KeyError):
        Surrogate(models(1), KINDS, []).predict("other", "cpu-1", [1])
