"""No slot twice, no number twice, everything comes back, and nobody takes what others need."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from allocator.dispatch.flows import Flow, PriorityLevel
from server.engine.slots import SlotAllocator

SEGMENTS, SEGMENT_ROWS = 4, 8
CAPACITY = SEGMENTS * SEGMENT_ROWS
FLOWS = [Flow(PriorityLevel(1)) for _ in range(6)]
A, B, C = FLOWS[:3]

steps = st.lists(
    st.one_of(
        st.tuples(st.just("claim"), st.integers(1, 20), st.integers(0, 5), st.integers(0, 40)),
        st.tuples(st.just("free"), st.integers(0, 50), st.integers(0, 50), st.none()),
    ),
    max_size=120,
)


def claim(slots, rows, flow=A, now=0.0):
    return slots.claim(rows, flow, now)


def claim_all(slots, flow, now=0.0):
    """All that a flow can get; what it got."""
    spans = []
    while (span := slots.claim(CAPACITY, flow, now)) is not None:
        spans.append(span)
    return spans


def rows_of(spans):
    return sum(stop - start for start, stop in spans)


def segments_of(slots):
    return {slot // SEGMENT_ROWS for slot in slots}


@given(steps, st.integers(1, 6), st.integers(1, 1000))
def test_no_slot_is_given_twice_and_no_number_repeats(operations, flows, generation):
    slots = SlotAllocator(SEGMENTS, SEGMENT_ROWS, generation)
    seen: set[int] = set()
    held: list[tuple[int, int, int]] = []
    now = 0.0
    for operation, first, second, later in operations:
        if operation == "claim":
            now += later
            number = second % flows
            taken = {row % CAPACITY for start, stop, _ in held for row in range(start, stop)}
            span = slots.claim(first, FLOWS[number], now)
            if span is None:
                # Full: every segment holds a row, or is an open one and given out to its end.
                # Else it has rows itself: when they end, it is its turn.
                is_full = len(segments_of(taken)) == SEGMENTS
                assert is_full or (flows > 1 and number in {owner for *_, owner in held})
                continue
            start, stop = span
            assert 0 < stop - start <= first
            assert start // SEGMENT_ROWS == (stop - 1) // SEGMENT_ROWS, "within one segment"
            assert start >= generation * CAPACITY
            rows = set(range(start, stop))
            assert not rows & seen
            assert not {row % CAPACITY for row in rows} & taken
            seen |= rows
            held.append((*span, number))
        elif held:
            start, stop, number = held.pop(first % len(held))
            cut = start + second % (stop - start + 1)
            if cut > start:
                slots.free(start, cut)
            if stop > cut:
                held.append((cut, stop, number))
        assert slots.held == sum(stop - start for start, stop, _ in held)
    for start, stop, _ in held:
        slots.free(start, stop)
    assert slots.held == 0
    # Everything comes back: whoever is alone gets all segments but the rest of the open one.
    got = claim_all(slots, A, now + 1000)
    assert not {row for span in got for row in range(*span)} & seen
    assert CAPACITY - SEGMENT_ROWS < rows_of(got) <= CAPACITY


@given(
    st.integers(4, 40),
    st.lists(st.sampled_from(FLOWS[1:]), min_size=1, max_size=400),
)
def test_whoever_floods_and_gives_nothing_back_leaves_others_room(segments, flooding):
    """As many as flood: a flow that has asked of late still gets a segment of its own."""
    slots = SlotAllocator(segments, SEGMENT_ROWS)
    slots.free(*claim(slots, 1, A))
    for flow in flooding:
        slots.claim(SEGMENT_ROWS, flow, 1.0)
    if segments > 2 * len(set(flooding)):
        assert rows_of([claim(slots, SEGMENT_ROWS, A, 2.0)]) == SEGMENT_ROWS


@pytest.mark.parametrize("segments", [3, 4, 27])
def test_half_of_the_arena_is_set_aside_for_those_who_have_asked_in_the_last_minute(segments):
    slots = SlotAllocator(segments, SEGMENT_ROWS)
    slots.free(*claim(slots, 1, A, now=0.0))
    aside = math.ceil(segments / 4)
    mine = claim_all(slots, B, now=1.0)
    assert rows_of(mine) == (segments - aside) * SEGMENT_ROWS
    assert rows_of(claim_all(slots, A, now=2.0)) == aside * SEGMENT_ROWS


def test_whoever_is_alone_gets_everything():
    slots = SlotAllocator(SEGMENTS, SEGMENT_ROWS)
    slots.free(*claim(slots, 3, A, now=0.0))
    assert rows_of(claim_all(slots, B, now=59.0)) < CAPACITY
    assert rows_of(claim_all(SlotAllocator(SEGMENTS, SEGMENT_ROWS), B)) == CAPACITY


def test_a_minute_after_the_others_have_gone_everything_is_to_be_had():
    slots = SlotAllocator(SEGMENTS, SEGMENT_ROWS)
    slots.free(*claim(slots, 3, A, now=0.0))
    assert rows_of(claim_all(slots, B, now=61.0)) == CAPACITY


def test_of_two_segments_none_is_set_aside():
    slots = SlotAllocator(2, SEGMENT_ROWS)
    slots.free(*claim(slots, 1, A))
    assert rows_of(claim_all(slots, B)) == 2 * SEGMENT_ROWS


def test_flows_do_not_hold_each_others_segments():
    """Rows that wait for something slow are not spread over the arena."""
    slots = SlotAllocator(SEGMENTS, SEGMENT_ROWS)
    slow = [claim(slots, 1, A)]
    for _ in range(100):
        span = claim(slots, 5, B)
        assert not segments_of({span[0] % CAPACITY}) & segments_of({r % CAPACITY for r, _ in slow})
        slots.free(*span)
        if len(slow) < SEGMENT_ROWS:
            slow.append(claim(slots, 1, A))


def test_more_flows_than_segments_share_what_is_open():
    slots = SlotAllocator(3, SEGMENT_ROWS)
    spans = [claim(slots, 2, flow) for flow in FLOWS]
    assert None not in spans
    assert len(segments_of({start % (3 * SEGMENT_ROWS) for start, _ in spans})) == 3
    for span in spans:
        slots.free(*span)
    assert slots.held == 0
    assert rows_of(claim_all(slots, C, now=1000.0)) == 3 * SEGMENT_ROWS


def test_a_straggler_holds_one_segment_only():
    slots = SlotAllocator(2, 4)
    first = claim(slots, 4)
    straggler = first[0] + 2
    slots.free(first[0], straggler)
    slots.free(straggler + 1, first[1])
    for _ in range(10):
        span = claim(slots, 4)
        assert span is not None
        slots.free(*span)
    assert slots.held == 1
    slots.free(straggler, straggler + 1)
    assert claim(slots, 4) is not None
    assert claim(slots, 4) is not None
    assert claim(slots, 1) is None


def test_numbers_name_generation_segment_and_offset():
    slots = SlotAllocator(2, 4, generation=3)
    assert claim(slots, 3) == (24, 27)
    assert claim(slots, 3) == (27, 28)
    start, stop = claim(slots, 3)
    assert (start % 8, stop - start) == (4, 3)
