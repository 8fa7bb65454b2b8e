"""Which requests go to the new version: shares that are kept, keys that stay."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.rollout.routing import Router
from server.rollout.spec import RolloutSpec


def router(percent, *, model="m", version="2"):
    return Router(RolloutSpec(model=model, version=version, mode="canary", percent=percent))


@given(percent=st.floats(0, 100), requests=st.integers(1, 2000))
def test_the_share_is_kept_from_the_beginning(percent, requests):
    route = router(percent)
    taken = sum(route.takes() for _ in range(requests))
    assert abs(taken - percent / 100 * requests) < 6


@pytest.mark.parametrize("period", [2, 3, 4, 5, 7, 8])
def test_a_client_with_a_period_gets_its_share_too(period):
    route = router(25)
    taken = [route.takes() for _ in range(1000 * period)]
    for place in range(period):
        assert abs(sum(taken[place::period]) - 250) < 10


def test_nothing_and_everything():
    assert not any(router(0).takes(key) for key in ["", "a"] * 100)
    assert all(router(100).takes(key) for key in ["", "a"] * 100)


def test_about_the_share_of_keys():
    route = router(20)
    assert abs(sum(route.takes(f"user-{i}") for i in range(5000)) - 1000) < 100


@given(key=st.text(min_size=1), percent=st.floats(0, 100), more=st.floats(0, 100))
def test_a_key_stays_with_its_version_also_if_the_share_grows(key, percent, more):
    route = router(percent)
    first = route.takes(key)
    route.takes()
    assert route.takes(key) == first
    if first:
        assert router(max(percent, more)).takes(key)


def test_roll_outs_choose_different_keys():
    keys = [f"user-{i}" for i in range(2000)]
    first, second = router(50), router(50, version="3")
    both = sum(first.takes(key) and second.takes(key) for key in keys)
    assert abs(both - 500) < 100
