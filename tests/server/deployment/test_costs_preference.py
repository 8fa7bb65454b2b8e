from collections import Counter

import numpy as np
import pytest

from allocator.profiles import Profile, Profiles
from allocator.search.search import search
from server.deployment.costs import plan_problem, prefer_small_batches
from server.profiling import Measurements
from server.profiling.comparison import LEAST_BLOCKS, SAME, compare
from workers.runtime.spec import DeviceSpec

KIND = "cpu-1"
SIZES = (1, 2, 4, 8)
#: Rows/s of three networks for photos by batch size.
RATES = {"a": (207, 212, 205, 189), "b": (160, 167, 164, 149), "c": (141.5, 144, 141, 129)}
CPUS = [DeviceSpec(f"cpu:{i}", KIND, 8 << 30, (i,), pool="ram") for i in range(2)]
LARGEST = dict.fromkeys(RATES, 64)


def measured(latencies, noise):
    profiles = [
        Profile(member, KIND, size, seconds, size << 20)
        for member, by_size in latencies.items()
        for size, seconds in by_size.items()
    ]
    return Measurements(Profiles(profiles), noise={(name, KIND): noise[name] for name in noise})


def placed(found, tolerance):
    planned = prefer_small_batches(plan_problem(found, CPUS, LARGEST), found)
    return search(planned.problem, tolerance=tolerance).matrix.cells


def drawn(generator, spread, blocks=3 * LEAST_BLOCKS):
    """Measurements as they come: all is slower at times, each run is a little off, some by far."""
    latencies, noise = {}, {}
    for member, rates in RATES.items():
        shape = blocks, len(SIZES)
        drift = generator.normal(0, 0.1, (blocks, 1))
        bursts = generator.exponential(0.5, shape) * (generator.random(shape) < 0.05)
        logs = drift + generator.normal(0, spread, shape) + bursts
        found = compare(SIZES, np.array(SIZES) / np.array(rates) * np.exp(logs))
        latencies[member], noise[member] = found.latency_s, found.noise
    return measured(latencies, noise)


@pytest.mark.slow
@pytest.mark.parametrize(("spread", "least_share"), [(0.005, 1.0), (0.01, 0.95), (0.02, 0.6)])
def test_measurements_with_noise_give_the_same_allocation(spread, least_share):
    generator = np.random.default_rng(0)
    found = Counter(placed(drawn(generator, spread), SAME) for _ in range(60))
    ((cells, times),) = found.most_common(1)
    assert times / 60 >= least_share
    assert cells == ((2, 2, 0), (2, 0, 2))


@pytest.mark.slow
def test_one_measurement_after_the_other_gave_any_allocation():
    """What the noise is taken into account for: each size measured once, at another time."""
    generator = np.random.default_rng(0)

    def once():
        return {
            member: {
                size: size / rate * float(np.exp(generator.normal(0, 0.05)))
                for size, rate in zip(SIZES, rates, strict=True)
            }
            for member, rates in RATES.items()
        }

    found = Counter(placed(measured(once(), {}), 0.0) for _ in range(60))
    assert found.most_common(1)[0][1] / 60 < 0.3


def test_what_is_left_out_is_told():
    found = measured({"a": {1: 0.0100, 2: 0.0199, 4: 0.0390}}, {"a": {1: 0.02, 2: 0.01, 4: 0.0}})
    planned = plan_problem(found, CPUS, LARGEST)
    preferring = prefer_small_batches(planned, found)
    assert list(preferring.problem.profiles.of("a", KIND)) == [1]
    (note,) = set(preferring.corrections) - set(planned.corrections)
    assert note.startswith("a on cpu-1 has batches of 1: those of 4 are 2.")


def test_without_known_noise_all_batch_sizes_stay():
    found = measured({"a": {1: 0.0100, 2: 0.0199, 4: 0.0390}}, {})
    planned = plan_problem(found, CPUS, LARGEST)
    preferring = prefer_small_batches(planned, found)
    assert list(preferring.problem.profiles) == list(planned.problem.profiles)
    assert preferring.corrections == planned.corrections
