import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from allocator.profiles import Profile, Profiles

ENTRY = {"member": "a", "device_kind": "cpu-4", "batch": 8, "latency_s": 0.5, "memory_bytes": 7}


def profile(batch=8, latency_s=0.5, member="a", kind="cpu-4", memory=7):
    return Profile(member, kind, batch, latency_s, memory)


def document(**changes):
    return json.dumps({"profiles": [{**ENTRY, **changes}]})


def test_profiles_are_found_by_member_and_kind_with_ascending_batches():
    table = Profiles([profile(8), profile(1, 0.1), profile(2, 0.2, "b"), profile(4, 1, "a", "gpu")])
    assert list(table.of("a", "cpu-4")) == [1, 8]
    assert table.of("b", "gpu") == {}
    assert table.members == ("a", "b")
    assert len(table) == len(list(table)) == 4


def test_speed_is_batch_by_latency():
    assert profile(8, 0.5).rows_per_s == 16


def test_a_combination_is_there_once():
    with pytest.raises(ValueError, match="^member 'a' on 'cpu-4': batch 8 is there twice$"):
        Profiles([profile(8), profile(8, 0.7)])


@pytest.mark.parametrize(
    ("rows", "latency_s"),
    [
        (1, 0.2),  # below the first batch size: as long as that one
        (2, 0.2),
        (3, 0.3),  # between: interpolated
        (5, 0.5),
        (6, 0.6),
        (12, 1.2),  # beyond the last: its time per row
    ],
)
def test_latency_between_batch_sizes(rows, latency_s):
    table = Profiles([profile(2, 0.2), profile(6, 0.6)])
    assert table.latency_s("a", "cpu-4", rows) == pytest.approx(latency_s)


@given(st.dictionaries(st.integers(1, 64), st.floats(0.001, 9), min_size=1, max_size=5))
def test_latency_at_profiled_sizes_and_between_is_within_its_neighbours(latencies):
    table = Profiles(profile(batch, seconds) for batch, seconds in latencies.items())
    batches = sorted(latencies)
    for batch in batches:
        assert table.latency_s("a", "cpu-4", batch) == latencies[batch]
    for rows in range(batches[0], batches[-1] + 1):
        below = max(batch for batch in batches if batch <= rows)
        above = min(batch for batch in batches if batch >= rows)
        low, high = sorted((latencies[below], latencies[above]))
        assert low * (1 - 1e-9) <= table.latency_s("a", "cpu-4", rows) <= high * (1 + 1e-9)


def test_latency_is_not_known_where_there_is_no_profile():
    with pytest.raises(KeyError):
        Profiles([profile()]).latency_s("a", "gpu", 1)


def test_the_file_tells_all_and_may_tell_more():
    table = Profiles([profile(8), profile(1, 0.1, "b", "NVIDIA H200", 0)])
    text = table.to_json(made_with="threads")
    assert list(Profiles.from_json(text)) == list(table)
    assert json.loads(text)["made_with"] == "threads"


def test_latencies_by_length_are_kept_and_left_out_where_there_are_none():
    by_length = Profile("a", "cpu-4", 1, 0.1, 7, {16: 0.05, 512: 1.5})
    text = Profiles([by_length, profile(8)]).to_json()
    assert [*Profiles.from_json(text)] == [by_length, profile(8)]
    assert ["lengths" in entry for entry in json.loads(text)["profiles"]] == [True, False]


def test_whole_numbers_may_be_written_with_an_exponent():
    (one,) = Profiles.from_json(document(memory_bytes=1e9))
    assert one.memory_bytes == 1_000_000_000
    assert isinstance(one.memory_bytes, int)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("{", "is not JSON: "),
        ('{"x": ' + "[" * 100_000, "is not JSON: "),
        ("[" * 100_000, "Expected `object`, got `array`"),
        (b"\xff\xfe\xfa", "is not JSON: "),
        ("[]", "Expected `object`, got `array`"),
        ("{}", "Object missing required field `profiles`"),
        ('{"profiles": {}}', "profiles: Expected `array`, got `object`"),
        ('{"profiles": []}', "profiles: Expected `array` of length >= 1"),
        ('{"profiles": [3]}', "profiles[0]: Expected `object`, got `int`"),
        ('{"profiles": [{}]}', "profiles[0]: Object missing required field `member`"),
        (document(member=""), "profiles[0].member: Expected `str` of length >= 1"),
        (document(device_kind=None), "profiles[0].device_kind: Expected `str`, got `null`"),
        (
            document(member="a\nb", batch=0),
            "member 'a\\nb' on 'cpu-4': batch should be 1 or more",
        ),
        (document(batch=1.5), "profiles[0].batch: Expected `float` that's a multiple of 1"),
        (document(batch=True), "profiles[0].batch: Expected `float`, got `bool`"),
        (document(latency_s="1"), "profiles[0].latency_s: Expected `float`, got `str`"),
        (document(latency_s=float("nan")), "is not JSON: "),
        (document(batch=10**400), "profiles[0].batch: "),
        (
            document(latency_s=0),
            "member 'a' on 'cpu-4': latency_s should be above 0, not 0.0",
        ),
        (document(memory_bytes=-1), "profiles[0].memory_bytes: Expected `float` >= 0"),
        (document(memory_bytes=1e30), "profiles[0].memory_bytes: Expected `float` <= 2"),
        (
            document(latency_s=5e-324),
            "member 'a' on 'cpu-4': latency_s should be above 0",
        ),
        (document(lengths={"long": 1.0}), "Expected `int`, got `str` - at `key` in "),
        (json.dumps({"profiles": [ENTRY, ENTRY]}), "member 'a' on 'cpu-4': batch 8 is there twice"),
    ],
)
def test_a_wrong_file_is_refused_in_one_line(text, line):
    with pytest.raises(ValueError) as raised:  # noqa: PT011
        Profiles.from_json(text)
    assert str(raised.value).startswith(line)
    assert "\n" not in str(raised.value)
