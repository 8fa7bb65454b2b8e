"""As which variant a member runs on a kind of device."""

from allocator.profiles import Profile, Profiles
from server.profiling import Measurements
from server.profiling.variants import with_fastest_variants, with_former

CPU, GPU = "cpu-4", "NVIDIA H200"


def measurements(rates, estimated=(), **more):
    """Forms by name and kind with rows/s, in batches of 10; memory is 1 for each."""
    profiles = [Profile(*key, 10, 10 / rate, 1) for key, rate in rates.items()]
    return Measurements(Profiles(profiles), estimated=tuple(estimated), **more)


def rates(found):
    return {(one.member, one.device_kind): round(one.rows_per_s) for one in found.profiles}


def test_the_fastest_form_runs_on_each_kind_under_the_member_s_name():
    forms = measurements(
        {
            ("a", CPU): 100,
            ("a/int8", CPU): 200,
            ("a/bf16", CPU): 150,
            ("a", GPU): 1000,
            ("a/fp16", GPU): 1005,  # which is noise
            ("b", CPU): 300,
        },
        noise={("a/int8", CPU): {10: 0.1}, ("a", CPU): {10: 0.2}},
        colocation={("a/bf16", CPU): 1.5, ("b", CPU): 1.1},
    )
    found = with_fastest_variants(forms)
    assert found.variants == {("a", CPU): "int8"}
    assert rates(found) == {("a", CPU): 200, ("a", GPU): 1000, ("b", CPU): 300}
    assert found.noise == {("a", CPU): {10: 0.1}}
    assert found.colocation == {("b", CPU): 1.1}
    assert found.forms is forms
    assert found.of_kinds([GPU]).variants == {}
    assert rates(found.of_kinds([CPU]).forms).keys() == {
        key for key in rates(forms) if key[1] == CPU
    }


def test_what_was_not_measured_does_not_take_the_place_of_the_member_s_model():
    slow, fast = {("a", CPU): 100}, {("a/int8", CPU): 200}
    for estimated in ([("a", CPU)], [("a/int8", CPU)]):
        found = with_fastest_variants(measurements({**slow, **fast}, estimated))
        assert found.variants == {}
        assert rates(found) == slow
        assert set(found.estimated) <= {("a", CPU)}
    # Where the model itself does not run, its variant may.
    assert with_fastest_variants(measurements(fast)).variants == {("a", CPU): "int8"}
    without = measurements(slow)
    assert with_fastest_variants(without) is without


def test_a_variant_like_its_predecessor_costs_what_that_did():
    before = with_fastest_variants(measurements({("a", CPU): 100, ("a/int8", CPU): 200}))
    guesses = {("a", CPU): 7, ("a/int8", CPU): 9}
    now = with_fastest_variants(measurements(guesses, [("a/int8", CPU), ("a", CPU)]))
    assert now.variants == {}
    found = with_former(now, before, {"a", "a/int8"})
    assert (found.variants, rates(found)) == ({("a", CPU): "int8"}, {("a", CPU): 200})
    assert with_former(now, before, {"a"}).variants == {}
