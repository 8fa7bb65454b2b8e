from hypothesis import given
from hypothesis import strategies as st

from server.batching import PendingRanges, merge, subtract

SEGMENT = 8

spans = st.tuples(st.integers(0, 60), st.integers(1, 12)).map(lambda s: (s[0], s[0] + s[1]))

spans_within_a_segment = spans.map(
    lambda span: (span[0], min(span[1], span[0] - span[0] % SEGMENT + SEGMENT))
)


def rows_of(ranges):
    return [row for start, stop in ranges for row in range(start, stop)]


# -- merge and subtract ------------------------------------------------------------------------


@given(st.lists(spans_within_a_segment))
def test_merge_keeps_rows_and_their_order_and_never_crosses_a_segment(ranges):
    merged = merge(ranges, SEGMENT)
    assert rows_of(merged) == rows_of(ranges)
    assert all(start // SEGMENT == (stop - 1) // SEGMENT for start, stop in merged)
    for (_, stop), (start, _) in zip(merged, merged[1:], strict=False):
        assert stop != start or start % SEGMENT == 0, "what touches within a segment is joined"


def test_merge_joins_neighbours():
    assert merge([(1, 3), (3, 5), (6, 8), (8, 9)], SEGMENT) == [(1, 5), (6, 8), (8, 9)]
    assert merge([], SEGMENT) == []


@given(st.lists(spans), spans)
def test_subtract_removes_just_the_rows(ranges, hole):
    rest = subtract(ranges, *hole)
    assert rows_of(rest) == [row for row in rows_of(ranges) if not hole[0] <= row < hole[1]]
    assert all(start < stop for start, stop in rest)


# -- pending ranges against a naive model ------------------------------------------------------


class Naive:
    """One entry per row: (row, since), suspects apart."""

    def __init__(self):
        self.suspects = []
        self.waiting = []

    def take(self, limit):
        if self.suspects:
            return [self.suspects.pop(0)[0]]
        taken, self.waiting = self.waiting[:limit], self.waiting[limit:]
        return [row for row, _ in taken]

    def withdraw(self, start, stop):
        self.suspects = [item for item in self.suspects if not start <= item[0] < stop]
        self.waiting = [item for item in self.waiting if not start <= item[0] < stop]


operations = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.integers(1, 12)),
        st.tuples(st.just("skip"), st.integers(1, 5)),
        st.tuples(st.just("take"), st.integers(1, 10)),
        st.tuples(st.just("withdraw"), spans),
        st.tuples(st.just("put_back"), st.integers(0, 9)),
        st.tuples(st.just("isolate"), st.integers(0, 9)),
    ),
    max_size=40,
)


@given(operations)
def test_pending_ranges_behave_like_a_list_of_rows(steps):
    pending, naive = PendingRanges(SEGMENT), Naive()
    head, now, batches = 0, 0.0, []
    for operation, value in steps:
        now += 1.0
        match operation:
            case "append":  # as the arena does: never across a segment's boundary
                stop = min(head + value, head - head % SEGMENT + SEGMENT)
                pending.append(head, stop, now)
                naive.waiting += [(row, now) for row in range(head, stop)]
                head = stop
            case "skip":
                head += value
            case "take":
                ranges = pending.take(value)
                assert rows_of(ranges) == naive.take(value)
                assert len(rows_of(ranges)) <= value
                assert all(a // SEGMENT == (b - 1) // SEGMENT for a, b in ranges)
                if ranges:
                    batches.append(ranges)
            case "withdraw":
                pending.withdraw(*value)
                naive.withdraw(*value)
            case "put_back" if batches:
                ranges = batches.pop(value % len(batches))
                pending.put_back(ranges, 0.5)
                naive.waiting = [(row, 0.5) for row in rows_of(ranges)] + naive.waiting
            case "isolate" if batches:
                for row in rows_of(batches.pop(value % len(batches))):
                    pending.isolate(row, 0.5)
                    naive.suspects.append((row, 0.5))
        assert pending.rows == len(naive.waiting) + len(naive.suspects)
        if pending.rows:
            assert pending.since == (naive.suspects or naive.waiting)[0][1]
    left = []
    while pending.rows:
        left += rows_of(pending.take(7))
    assert left == [row for row, _ in naive.suspects + naive.waiting]


def test_a_suspect_goes_alone_and_first():
    pending = PendingRanges(SEGMENT)
    pending.append(0, 3, now=5.0)
    pending.isolate(1001, since=1.0)
    pending.isolate(1002, since=1.0)
    assert [pending.take(32) for _ in range(4)] == [[(1001, 1002)], [(1002, 1003)], [(0, 3)], []]


def test_what_is_put_back_comes_first_and_keeps_its_age():
    pending = PendingRanges(SEGMENT)
    pending.append(4, 8, now=9.0)
    pending.put_back([(0, 2), (2, 4)], since=3.0)
    assert pending.since == 3.0
    assert pending.take(6) == [(0, 6)]
    assert pending.since == 9.0
    assert pending.take(6) == [(6, 8)]
