"""Bounded for each flow by itself, served in turn."""

from types import SimpleNamespace

import pytest

from allocator.dispatch.flows import HIGH, NORMAL, Flows
from server.engine.admission_queue import AdmissionQueue
from server.errors import QueueFull
from server.versions import ModelName

FLOWS = Flows()


def request(rows, ensemble=0, priority=NORMAL, flows=FLOWS):
    flow = flows.get(ensemble, priority)
    model = SimpleNamespace(public=ModelName(f"e{ensemble}", "1"))
    return SimpleNamespace(rows=rows, claimed=0, flow=flow, model=model)


def claim(queue, rows):
    """Let the first request claim rows; returns it."""
    first = queue.first()
    rows = min(rows, first.rows - first.claimed)
    first.claimed += rows
    queue.note_claim(first, rows)
    return first


def test_requests_and_rows_are_bounded_for_each_flow():
    queue = AdmissionQueue(max_requests=2, max_rows=10)
    for item in (request(4), request(6)):
        queue.check(item)
        queue.append(item)
    with pytest.raises(QueueFull, match="2 requests to 'e0' with 10 rows wait"):
        queue.check(request(1))
    for other in (request(4, ensemble=1), request(4, priority=HIGH)):
        queue.check(other)
        queue.append(other)
        with pytest.raises(QueueFull):
            queue.check(request(7, int(other.model.public.name[1:]), other.flow.level.number))
    assert queue.requests == 4
    assert len(list(queue)) == 4


def test_a_lone_request_may_be_larger_than_the_room():
    queue = AdmissionQueue(max_requests=2, max_rows=10)
    queue.check(request(1000))
    with pytest.raises(QueueFull):
        AdmissionQueue(max_requests=0, max_rows=10).check(request(1))


def test_requests_of_a_flow_take_turns_piece_by_piece():
    queue = AdmissionQueue(9, 99)
    a, b = request(5), request(3)
    queue.append(a)
    queue.append(b)
    assert [claim(queue, 2) for _ in range(5)] == [a, b, a, b, a]
    assert (queue.first(), queue.requests, queue.rows(a.flow)) == (None, 0, 0)


def test_what_is_urgent_comes_first_then_who_had_least():
    flows = Flows()
    queue = AdmissionQueue(9, 99)
    much, little = request(2, 0, flows=flows), request(2, 1, flows=flows)
    urgent = request(2, 0, HIGH, flows=flows)
    much.flow.charge(1.0)
    for item in (much, little, urgent):
        queue.append(item)
    assert [claim(queue, 2) for _ in range(3)] == [urgent, little, much]


def test_a_removed_request_takes_the_rest_of_its_rows_along():
    queue = AdmissionQueue(9, 99)
    a, b = request(5), request(3)
    queue.append(a)
    queue.append(b)
    claim(queue, 2)
    queue.remove(a)
    queue.remove(a)
    assert (queue.requests, queue.rows(a.flow), queue.first()) == (1, 3, b)


def test_a_flow_that_has_its_share_is_skipped():
    queue = AdmissionQueue(9, 99)
    a, b = request(5), request(3, ensemble=1)
    queue.append(a)
    queue.append(b)
    assert queue.first({a.flow}) is b
    assert queue.first({b.flow}) is a
    assert queue.first({a.flow, b.flow}) is None
