"""A cache of what is in use: bounded, and cheap."""

from hypothesis import given
from hypothesis import strategies as st

from server.inference.generational_cache import GenerationalCache


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 30)), max_size=200), st.integers(1, 8))
def test_values_are_right_or_absent_and_the_size_is_bounded(steps, generation):
    recent = GenerationalCache(generation)
    for puts, key in steps:
        if puts:
            recent.put(key, str(key))
            assert recent.get(key) == str(key)
        else:
            assert recent.get(key) in (None, str(key))
        assert len(recent) <= 2 * generation


def test_used_entries_stay():
    recent = GenerationalCache(4)
    recent.put("mine", 1)
    for number in range(100):
        recent.put(f"other {number}", number)
        assert recent.get("mine") == 1
    assert recent.get("other 0") is None
    assert recent.get("other 99") == 99
