"""Which faults a plan leads to, without a server."""

from unittest.mock import Mock

from benchmarks.chaos.campaign import Campaign, Plan
from benchmarks.chaos.scene import steady


def test_the_second_half_may_have_other_faults():
    first, second = ("kill the combiner",), ("kill a worker", "clients vanish")
    plan = Plan(7, 20, first, later_kinds=second)
    campaign = Campaign(plan, steady(), ("127.0.0.1:1", "127.0.0.1:1"), Mock(), changes=Mock())
    assert campaign._kinds[:10] == [*first] * 10
    assert set(campaign._kinds[10:]) == set(second)
