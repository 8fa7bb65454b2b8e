import pytest

from allocator.problem import Device, Problem
from allocator.profiles import Profile, Profiles
from server.following.correction import corrected
from server.following.traffic import InstanceTraffic, Traffic

DEVICES = tuple(Device(f"cuda:{index}", "A", 100) for index in range(3))
PROBLEM = Problem(
    ("a", "b"),
    DEVICES,
    Profiles(
        Profile(member, "A", batch, batch**0.5 / 100, 10) for member in "ab" for batch in (1, 4)
    ),
)


def seen(**devices):
    """By device, member: the seconds per batch of 4, which should be 0.02."""
    return Traffic(
        1,
        60.0,
        instances={
            name.replace("_", ":"): {
                member: InstanceTraffic(100, 400, 100 * seconds)
                for member, seconds in members.items()
            }
            for name, members in devices.items()
        },
    )


def latency_s(problem, device, member):
    kind = next(one.kind for one in problem.devices if one.name == device)
    return problem.profiles.of(member, kind)[4].latency_s


def test_profiles_that_are_about_right_stay():
    traffic = seen(cuda_0={"a": 0.022, "b": 0.018}, cuda_1={"a": 0.019})
    assert corrected(PROBLEM, traffic) is PROBLEM
    assert corrected(PROBLEM, Traffic(1, 1.0)) is PROBLEM


def test_a_member_that_takes_longer_everywhere_has_slower_profiles():
    traffic = seen(cuda_0={"a": 0.04, "b": 0.02}, cuda_1={"a": 0.042, "b": 0.02})
    problem = corrected(PROBLEM, traffic)
    assert latency_s(problem, "cuda:2", "a") == pytest.approx(0.04, rel=0.1)
    assert latency_s(problem, "cuda:2", "b") == 0.02
    assert {one.kind for one in problem.devices} == {"A"}


def test_a_device_that_is_slower_than_others_of_its_kind_becomes_one_of_its_own():
    traffic = seen(cuda_0={"a": 0.02, "b": 0.02}, cuda_1={"a": 0.02}, cuda_2={"a": 0.06, "b": 0.06})
    problem = corrected(PROBLEM, traffic)
    assert latency_s(problem, "cuda:2", "a") == pytest.approx(0.06, rel=0.1)
    assert latency_s(problem, "cuda:0", "a") == 0.02
    assert problem.devices[:2] == DEVICES[:2]
    assert problem.devices[2].is_cuda


def test_a_few_batches_say_nothing():
    few = Traffic(1, 1.0, instances={"cuda:0": {"a": InstanceTraffic(5, 20, 9.0)}})
    assert corrected(PROBLEM, few) is PROBLEM
