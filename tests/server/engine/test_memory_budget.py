import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.engine.memory_budget import MemoryBudget, Reservation
from server.errors import QueueFull


def test_a_refusal_holds_nothing_and_says_how_it_is():
    budget = MemoryBudget(10)
    budget.reserve(7)
    with pytest.raises(QueueFull, match="7 bytes of 10, and this one would need 4 more") as caught:
        budget.reserve(4)
    assert (caught.value.reason, caught.value.http_status) == ("memory", 429)
    assert budget.held_bytes == 7
    budget.reserve(3)
    budget.release(10)
    assert budget.held_bytes == 0


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 40)), max_size=50))
def test_holds_add_up_and_stay_within_the_limit(steps):
    budget = MemoryBudget(100)
    holds, held = [Reservation(budget) for _ in range(4)], [0] * 4
    for index, nbytes in steps:
        others = sum(held) - held[index]
        try:
            holds[index].resize(nbytes)
        except QueueFull:
            assert others + nbytes > 100
        else:
            held[index] = nbytes
        assert budget.held_bytes == sum(held) <= 100
