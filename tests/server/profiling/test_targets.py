import pytest
from profiled import MIB, batches, member, profiled

from server.errors import StartError


def test_only_the_members_own_batch_size(model, script):
    script({3: 0.01})
    assert batches(profiled([member("m", model, batch_size=3)])) == [3]


def test_a_batch_that_takes_too_large_an_arena_is_left_out(model, script):
    one = script({1: 0.01, 16: 0.1})
    found = profiled([member("m", model, elements=MIB)], batches=[1, 16, 64])  # 4 MiB in, 8 out
    assert one.measured == [1]
    assert found.missing[0][2].startswith("batch 16 and above: ")
    with pytest.raises(StartError, match="batch 64 and above"):
        profiled([member("m", model, elements=MIB)], batches=[64])
