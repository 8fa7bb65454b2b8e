"""What a request has to expect, from what waits and how fast it goes."""

from types import SimpleNamespace

import pytest

from allocator.dispatch.flows import HIGH, NORMAL, Flows
from allocator.dispatch.pending import PendingRows
from allocator.dispatch.state import DeviceState, LatencyEstimate, Member, Placement
from server.engine.forecast import Forecast, learn
from server.errors import DeadlineExceeded, MemberFailed, Unavailable


class Bench:
    """One arena: members with batches of 10 rows; `seconds`: member -> {device: per batch}."""

    def __init__(self, **seconds):
        self.flows, self.head, self.now = Flows(), 0, 100.0
        self.devices = {}
        self.members = []
        for index, (name, places) in enumerate(seconds.items()):
            member = Member(name, 0, index, PendingRows(1 << 20))
            for device, batch_s in places.items():
                state = self.devices.setdefault(device, DeviceState(device, up=True))
                latency = LatencyEstimate(10)
                latency.warm_up(batch_s / 2, batch_s)
                member.placements.append(Placement(state, 0, member, latency))
            self.members.append(member)
        self.forecast = Forecast({0: self.members})

    def append(self, rows, flow=(0, NORMAL), only=None):
        for member in self.members:
            if only is None or member.name in only:
                member.pending.append(self.head, self.head + rows, self.now, self.flows.get(*flow))
        self.head += rows

    def prospect(self, rows=10, flow=(0, NORMAL), *, needed=None, expected=None, queued_rows=0):
        expected = (1 << len(self.members)) - 1 if expected is None else expected
        request = SimpleNamespace(
            flow=self.flows.get(*flow),
            accepted=self.now,
            expected=expected,
            rows=rows,
            model=SimpleNamespace(arena=0),
            error=None,
            close_reason=None,
            short=False,
        )
        self.now += 1.0  # nothing is remembered
        return self.forecast.prospect(request, needed or expected.bit_count(), queued_rows), request


def test_a_device_is_through_with_all_that_waits_for_its_members():
    bench = Bench(a={"d0": 0.1}, b={"d0": 0.3})
    assert not bench.forecast.has_pending(0)
    bench.append(20)
    assert bench.forecast.has_pending(0)
    (wait_s, total_s), _ = bench.prospect(rows=10)
    assert wait_s == pytest.approx(2 * 0.1 + 2 * 0.3)
    assert total_s == pytest.approx(wait_s + 0.3)
    (_, total_s), _ = bench.prospect(rows=1)
    assert total_s == pytest.approx(wait_s + 0.15), "a lone row takes a batch of one"


def test_members_on_two_devices_share_their_rows_as_the_speeds_are():
    bench = Bench(a={"fast": 0.1, "slow": 0.3})
    bench.append(400)
    (wait_s, _), _ = bench.prospect()
    assert wait_s == pytest.approx(400 * 0.0075, rel=0.01), "133 rows a second"


def test_a_quorum_need_not_wait_for_the_slowest():
    bench = Bench(a={"d0": 0.1}, b={"d1": 0.2}, slow={"d2": 5.0})
    bench.append(10)
    assert bench.prospect(needed=3)[0].wait_s == pytest.approx(5.0)
    assert bench.prospect(needed=2)[0].wait_s == pytest.approx(0.2)
    assert bench.prospect(expected=0b001)[0].wait_s == pytest.approx(0.1)


def test_only_what_goes_before_counts():
    bench = Bench(a={"d0": 0.1})
    bench.append(100, flow=(0, NORMAL))
    assert bench.prospect(flow=(0, HIGH))[0].wait_s == 0.0
    # Another ensemble takes turns with the flood, so all it waits for is its own, twice.
    assert bench.prospect(flow=(1, NORMAL))[0].wait_s == 0.0
    bench.append(10, flow=(1, NORMAL))
    assert bench.prospect(flow=(1, NORMAL))[0].wait_s == pytest.approx(0.2)
    assert bench.prospect(flow=(0, NORMAL))[0].wait_s == pytest.approx(1.1)
    bench.append(50, flow=(1, HIGH))
    assert bench.prospect(flow=(1, NORMAL))[0].wait_s == pytest.approx(0.7)


def test_whom_many_rows_wait_for_may_be_another_than_a_lone_row_waits_for():
    bench = Bench(busy={"d0": 0.01}, slow={"d1": 1.0})
    bench.append(2000, only={"busy"})
    lone_s = bench.prospect(rows=1)[0].total_s
    assert lone_s == pytest.approx(2.0, rel=0.01), "of the busy one"
    bench.now -= 1.0  # at the same moment
    assert bench.prospect(rows=100)[0].total_s == pytest.approx(10.0), "of the slow one"


def test_what_waits_for_the_arena_counts():
    bench = Bench(a={"d0": 0.1})
    bench.append(10)
    assert bench.prospect(queued_rows=90)[0].wait_s == pytest.approx(1.0)


def test_what_was_accepted_since_counts():
    bench = Bench(a={"d0": 0.1})
    bench.append(10)
    (wait_s, _), request = bench.prospect(rows=50)
    for _ in range(3):
        bench.forecast.accept(request)
    assert bench.forecast.prospect(request, 1, 0).wait_s == pytest.approx(wait_s + 1.5)


def test_a_device_that_is_down_takes_no_share_unless_all_are():
    bench = Bench(a={"d0": 0.1, "d1": 0.1})
    bench.append(100)
    assert bench.prospect()[0].wait_s == pytest.approx(0.5)
    bench.devices["d1"].up = False
    assert bench.prospect()[0].wait_s == pytest.approx(1.0)
    bench.devices["d0"].up = False
    assert bench.prospect()[0].wait_s == pytest.approx(0.5)


@pytest.mark.parametrize(("factor", "bias"), [(2.0, 2.0), (1.0, 1.0), (0.1, 0.5), (50.0, 4.0)])
def test_what_forecasts_are_wrong_by_is_learned(factor, bias):
    bench = Bench(a={"d0": 0.1})
    bench.append(100)
    (_, true_s), request = bench.prospect()
    for _ in range(300):
        _, request = bench.prospect()
        learn(request, request.accepted + factor * true_s)
    assert request.flow.bias == pytest.approx(bias, rel=0.01)


def test_a_bias_that_no_request_confirms_is_doubted():
    """Else a flow that has all its requests refused since a device was away is refused for ever."""
    bench = Bench(a={"d0": 0.1})
    bench.append(10)
    _, request = bench.prospect(rows=1)
    flow = request.flow
    for _ in range(300):
        learn(request, request.accepted + 100.0)
    assert flow.bias == pytest.approx(4.0)
    bench.now = flow.bias_updated + 0.4
    assert bench.prospect(rows=1)[1].flow.bias == pytest.approx(4.0), "it may be right"
    bench.now = flow.bias_updated + 0.5001
    assert bench.prospect(rows=1)[1].flow.bias == pytest.approx(2.5, rel=0.01)
    bench.now = flow.bias_updated + 5.0
    assert bench.prospect(rows=1)[1].flow.bias == pytest.approx(1.0, abs=0.01)


def test_a_bias_is_not_doubted_before_a_request_could_confirm_it():
    bench = Bench(a={"d0": 0.1})
    bench.append(1000)
    flow = bench.prospect()[1].flow
    flow.bias, flow.bias_updated = 2.0, bench.now - 9.0
    assert bench.prospect()[1].flow.bias == 2.0


def after(forecast_s, **fields):
    """The bias after a request that took ten times as long as was forecast."""
    bench = Bench(a={"d0": 0.1})
    _, request = bench.prospect()
    request.forecast_s = forecast_s
    for name, value in fields.items():
        setattr(request, name, value)
    learn(request, request.accepted + 10 * forecast_s)
    return request.flow.bias


def test_what_is_learned_from():
    gone, late = Unavailable("the client has gone"), DeadlineExceeded()
    assert after(1.0) > 1.0
    assert after(1.0, close_reason=late, error=late) > 1.0
    assert after(1.0, close_reason=late, short=True) > 1.0
    assert after(0.001) == 1.0, "other things take as long"
    assert after(1.0, short=True) == 1.0
    assert after(1.0, error=MemberFailed("a")) == 1.0
    assert after(1.0, close_reason=gone, error=gone) == 1.0
