import math

from allocator.problem import Device, Problem
from allocator.profiles import Profile, Profiles
from allocator.search.doubts import find_doubt

MIB = 1 << 20


def predicted(member, kind, batch, latency_s, *, by, mib=10, most=None):
    """A prediction that may be off by a factor, whose memory is known unless `most` is given."""
    room = (mib * MIB, (most or mib) * MIB)
    return Profile(
        member, kind, batch, latency_s, mib * MIB,
        interval_s=(latency_s / by, latency_s * by), interval_bytes=room,
    )  # fmt: skip


def problem(*profiles, memory_mib=100):
    members = tuple(dict.fromkeys(one.member for one in profiles))
    kinds = dict.fromkeys(one.device_kind for one in profiles)
    devices = tuple(Device(kind, kind, memory_mib * MIB) for kind in kinds)
    return Problem(members, devices, Profiles(profiles))


def test_measured_costs_leave_no_doubt():
    assert find_doubt(problem(Profile("a", "k", 1, 0.1, MIB))).share == 0.0


def test_one_batch_size_leaves_no_choice_however_uncertain():
    found = find_doubt(problem(predicted("a", "k", 1, 0.1, by=10)))
    assert (found.share, found.points) == (0.0, ())


def test_the_batch_size_that_may_be_faster_is_to_be_measured():
    known = Profile("a", "k", 1, 0.1, MIB)
    rival = predicted("a", "k", 8, 0.9, by=2)
    found = find_doubt(problem(known, rival))
    assert 0.7 < found.share < 0.8  # 8 rows in 0.45 s instead of 10 rows/s
    assert found.points == (rival,)


def test_what_can_not_be_faster_is_not_worth_measuring():
    known = Profile("a", "k", 1, 0.1, MIB)
    found = find_doubt(problem(known, predicted("a", "k", 8, 4.0, by=2)))
    assert (found.share, found.points) == (0.0, ())


def test_the_least_certain_decides_first():
    profiles = [
        Profile("a", "k", 1, 0.1, MIB),
        Profile("b", "k", 1, 0.1, MIB),
        predicted("a", "k", 4, 0.4, by=1.1),
        predicted("b", "k", 4, 0.4, by=3),
    ]
    found = find_doubt(problem(*profiles))
    assert found.points[0].member == "b"


def test_an_allocation_that_may_not_fit_is_in_doubt():
    tight = predicted("a", "k", 1, 0.1, by=1.1, mib=50, most=200)
    found = find_doubt(problem(tight))
    assert (found.share, found.points) == (math.inf, (tight,))


def test_members_that_find_no_place_have_all_to_be_measured():
    profiles = [predicted(name, "k", 1, 0.1, by=1.1, mib=80) for name in "ab"]
    found = find_doubt(problem(*profiles))
    assert found.share == math.inf
    assert len(found.points) == 2
