"""Bounded for each flow by itself, served in turn."""

from types import SimpleNamespace

import pytest

from allocator.dispatch.flows import HIGH, NORMAL, Flows
from server.engine.admission_queue import WaitingRoom
from server.errors import QueueFull

FLOWS = Flows()


def request(rows, ensemble=0, level=NORMAL, flows=FLOWS):
    flow = flows.get(0, ensemble, level)
    return SimpleNamespace(
        rows=rows, claimed=0, flow=flow, model=SimpleNamespace(name=f"e{ensemble}")
    )


def claim(room, rows):
    """Let whoever's turn it is claim rows; who it was."""
    first = room.first()
    rows = min(rows, first.rows - first.claimed)
    first.claimed += rows
    room.has_claimed(first, rows)
    return first


def test_requests_and_rows_are_bounded_for_each_flow():
    room = WaitingRoom(max_requests=2, max_rows=10)
    for item in (request(4), request(6)):
        room.check(item)
        room.enter(item)
    with pytest.raises(QueueFull, match="2 requests to 'e0' with 10 rows wait"):
        room.check(request(1))
    for other in (request(4, ensemble=1), request(4, level=HIGH)):
        room.check(other)
        room.enter(other)
        with pytest.raises(QueueFull):
            room.check(request(7, int(other.model.name[1:]), other.flow.level.number))
    assert room.requests == 4
    assert len(list(room)) == 4


def test_a_lone_request_may_be_larger_than_the_room():
    room = WaitingRoom(max_requests=2, max_rows=10)
    room.check(request(1000))
    with pytest.raises(QueueFull):
        WaitingRoom(max_requests=0, max_rows=10).check(request(1))


def test_requests_of_a_flow_take_turns_piece_by_piece():
    room = WaitingRoom(9, 99)
    a, b = request(5), request(3)
    room.enter(a)
    room.enter(b)
    assert [claim(room, 2) for _ in range(5)] == [a, b, a, b, a]
    assert (room.first(), room.requests, room.rows(a.flow)) == (None, 0, 0)


def test_what_is_urgent_comes_first_then_who_had_least():
    flows = Flows()
    room = WaitingRoom(9, 99)
    much, little = request(2, 0, flows=flows), request(2, 1, flows=flows)
    urgent = request(2, 0, HIGH, flows=flows)
    much.flow.charge(1.0)
    for item in (much, little, urgent):
        room.enter(item)
    assert [claim(room, 2) for _ in range(3)] == [urgent, little, much]


def test_who_leaves_takes_the_rest_of_the_rows_along():
    room = WaitingRoom(9, 99)
    a, b = request(5), request(3)
    room.enter(a)
    room.enter(b)
    claim(room, 2)
    room.leave(a)
    room.leave(a)
    assert (room.requests, room.rows(a.flow), room.first()) == (1, 3, b)


def test_who_has_its_share_is_passed_over():
    room = WaitingRoom(9, 99)
    a, b = request(5), request(3, ensemble=1)
    room.enter(a)
    room.enter(b)
    assert room.first({a.flow}) is b
    assert room.first({b.flow}) is a
    assert room.first({a.flow, b.flow}) is None
