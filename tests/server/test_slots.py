from hypothesis import given
from hypothesis import strategies as st

from server.slots import SlotAllocator

SEGMENTS, SEGMENT_ROWS = 4, 8
CAPACITY = SEGMENTS * SEGMENT_ROWS

steps = st.lists(
    st.one_of(
        st.tuples(st.just("claim"), st.integers(1, 20), st.none()),
        st.tuples(st.just("free"), st.integers(0, 50), st.integers(0, 50)),
    ),
    max_size=120,
)


@given(steps, st.integers(1, 1000))
def test_no_slot_is_given_twice_and_no_number_repeats(operations, generation):
    slots = SlotAllocator(SEGMENTS, SEGMENT_ROWS, generation)
    seen: set[int] = set()
    held: list[tuple[int, int]] = []
    for operation, first, second in operations:
        if operation == "claim":
            taken = {row % CAPACITY for start, stop in held for row in range(start, stop)}
            span = slots.claim(first)
            if span is None:
                # Full: every segment holds a row, or is the open one and given out to its end.
                assert len({slot // SEGMENT_ROWS for slot in taken}) == SEGMENTS
                continue
            start, stop = span
            assert 0 < stop - start <= first
            assert start // SEGMENT_ROWS == (stop - 1) // SEGMENT_ROWS, "within one segment"
            assert start >= generation * CAPACITY
            rows = set(range(start, stop))
            assert not rows & seen
            assert not {row % CAPACITY for row in rows} & taken
            seen |= rows
            held.append(span)
        elif held:
            start, stop = held.pop(first % len(held))
            cut = start + second % (stop - start + 1)
            if cut > start:
                slots.free(start, cut)
            if stop > cut:
                held.append((cut, stop))
        assert slots.held == sum(stop - start for start, stop in held)
    for start, stop in held:
        slots.free(start, stop)
    assert slots.held == 0
    # Everything comes back: all segments but the rest of the open one can be had at once.
    got = 0
    while (span := slots.claim(CAPACITY)) is not None:
        got += span[1] - span[0]
        assert not set(range(*span)) & seen
    assert CAPACITY - SEGMENT_ROWS < got <= CAPACITY


def test_a_straggler_holds_one_segment_only():
    slots = SlotAllocator(2, 4)
    first = slots.claim(4)
    straggler = first[0] + 2
    slots.free(first[0], straggler)
    slots.free(straggler + 1, first[1])
    for _ in range(10):
        span = slots.claim(4)
        assert span is not None
        slots.free(*span)
    assert slots.held == 1
    slots.free(straggler, straggler + 1)
    assert slots.claim(4) is not None
    assert slots.claim(4) is not None
    assert slots.claim(1) is None


def test_numbers_name_generation_segment_and_offset():
    slots = SlotAllocator(2, 4, generation=3)
    assert slots.claim(3) == (24, 27)
    assert slots.claim(3) == (27, 28)
    start, stop = slots.claim(3)
    assert (start % 8, stop - start) == (4, 3)
