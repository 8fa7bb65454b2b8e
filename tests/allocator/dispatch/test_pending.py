from hypothesis import given
from hypothesis import strategies as st

from allocator.dispatch.flows import HIGH, NORMAL, Flows, rank_of
from allocator.dispatch.pending import PendingRows, merge, subtract

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
    """One entry per row: (row, since, flow), suspects apart."""

    def __init__(self):
        self.suspects = []
        self.waiting = []

    def next(self):
        """The suspect, or the rows of the flow whose turn it is, in their order."""
        rows = []
        if self.waiting:
            firsts = {}
            for row, since, flow in sorted(self.waiting, key=lambda item: item[0]):
                firsts.setdefault(flow, (rank_of(flow), since, row))
            flow = min(firsts, key=firsts.get)
            rows = sorted((i for i in self.waiting if i[2] is flow), key=lambda item: item[0])
        if self.suspects and (not rows or self.suspects[0][1] < rows[0][1]):
            return self.suspects[:1]
        return rows

    def pop(self, limit):
        if self.next() == self.suspects[:1] and self.suspects:
            return [self.suspects.pop(0)[0]]
        popped = []
        while len(popped) < limit and self.waiting:
            firsts, self.suspects = self.suspects, []
            part = self.next()[: limit - len(popped)]
            self.suspects = firsts
            popped += part
            self.waiting = [item for item in self.waiting if item not in part]
        return [row for row, _, _ in popped]

    def withdraw(self, start, stop):
        self.suspects = [item for item in self.suspects if not start <= item[0] < stop]
        self.waiting = [item for item in self.waiting if not start <= item[0] < stop]


flow_numbers = st.integers(0, 2)
operations = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.integers(1, 12), flow_numbers),
        st.tuples(st.just("skip"), st.integers(1, 5), flow_numbers),
        st.tuples(st.just("pop"), st.integers(1, 10), flow_numbers),
        st.tuples(st.just("withdraw"), spans, flow_numbers),
        st.tuples(st.just("put_back"), st.integers(0, 9), flow_numbers),
        st.tuples(st.just("isolate"), st.integers(0, 9), flow_numbers),
        st.tuples(st.just("charge"), st.integers(1, 3), flow_numbers),
    ),
    max_size=40,
)


class Both:
    """The real thing and the naive one, in step."""

    def __init__(self):
        self.pending, self.naive = PendingRows(SEGMENT), Naive()
        self.head, self.now, self.batches = 0, 0.0, []

    def append(self, value, flow):
        """As the arena does: never across a segment's boundary."""
        head = self.head
        self.head = min(head + value, head - head % SEGMENT + SEGMENT)
        self.pending.append(head, self.head, self.now, flow)
        self.naive.waiting += [(row, self.now, flow) for row in range(head, self.head)]

    def skip(self, value, _):
        self.head += value

    def pop(self, value, _):
        batch = self.pending.pop_batch(value)
        assert rows_of(batch.ranges) == self.naive.pop(value)
        assert len(rows_of(batch.ranges)) <= value
        assert all(a // SEGMENT == (b - 1) // SEGMENT for a, b in batch.ranges)
        shared = [span for _, ranges in batch.shares for span in ranges]
        assert rows_of(shared) == rows_of(batch.ranges)
        if batch.ranges:
            self.batches.append(batch)

    def withdraw(self, value, _):
        before = self.rows
        self.naive.withdraw(*value)
        assert self.pending.withdraw(*value) == before - self.rows

    def put_back(self, value, _):
        for flow, ranges in self._some_batch(value):
            for start, stop in ranges:
                self.pending.append(start, stop, 0.5, flow)
            self.naive.waiting += [(row, 0.5, flow) for row in rows_of(ranges)]

    def isolate(self, value, _):
        for flow, ranges in self._some_batch(value):
            for row in rows_of(ranges):
                self.pending.isolate(row, self.now, flow)
                self.naive.suspects.append((row, self.now, flow))

    def charge(self, value, flow):
        flow.charge(value)

    def _some_batch(self, value):
        return self.batches.pop(value % len(self.batches)).shares if self.batches else []

    @property
    def rows(self):
        return len(self.naive.waiting) + len(self.naive.suspects)

    def compare(self, flows):
        assert self.pending.rows == self.rows
        assert sum({id(f): f.pending for f in flows}.values()) == self.rows
        if self.rows:
            ages = [since for _, since, _ in self.naive.waiting + self.naive.suspects]
            assert self.pending.since == min(ages)
            _, since, flow = self.naive.next()[0]
            assert self.pending.rank == (*rank_of(flow), since)


def some_flows(same):
    known = Flows()
    if same:
        return [known.get("0", NORMAL)] * 3
    return [known.get("0", NORMAL), known.get("1", NORMAL), known.get("0", HIGH)]


@given(operations, st.booleans())
def test_pending_ranges_behave_like_a_list_of_rows(steps, same):
    both, flows = Both(), some_flows(same)
    for operation, value, number in steps:
        both.now += 1.0
        getattr(both, operation)(value, flows[number])
        both.compare(flows)
    while both.rows:
        both.pop(7, None)
    assert both.pending.rows == 0


FLOW = Flows().get("", NORMAL)


def test_a_suspect_goes_alone_and_first_if_it_is_older():
    pending = PendingRows(SEGMENT)
    pending.append(0, 3, 5.0, FLOW)
    pending.isolate(1001, 1.0, FLOW)
    pending.isolate(1002, 1.0, FLOW)
    popped = [pending.pop_batch(32).ranges for _ in range(4)]
    assert popped == [[(1001, 1002)], [(1002, 1003)], [(0, 3)], []]


def test_what_comes_back_is_first_again_and_keeps_its_age():
    pending = PendingRows(SEGMENT)
    pending.append(4, 8, 9.0, FLOW)
    for start, stop in [(2, 4), (0, 2)]:
        pending.append(start, stop, 3.0, FLOW)
    assert pending.since == 3.0
    assert pending.pop_batch(6).ranges == [(0, 6)]
    assert pending.since == 9.0
    assert pending.pop_batch(6).ranges == [(6, 8)]


def test_a_batch_is_filled_from_the_flow_whose_turn_it_is_then_from_the_next():
    known = Flows()
    urgent, much, little = known.get("0", HIGH), known.get("0", NORMAL), known.get("1", NORMAL)
    much.charge(1.0)
    pending = PendingRows(64)
    pending.append(0, 30, 1.0, much)
    pending.append(30, 33, 2.0, little)
    pending.append(33, 35, 3.0, urgent)
    batch = pending.pop_batch(8)
    assert batch.shares == [(urgent, [(33, 35)]), (little, [(30, 33)]), (much, [(0, 3)])]
    assert dict(pending.flows()) == {much: 27}
    assert (urgent.pending, little.pending, much.pending) == (0, 0, 27)


def test_withdrawing_from_a_long_line_keeps_the_rest_in_order():
    pending = PendingRows(SEGMENT)
    for row in range(0, 4000, 2):
        pending.append(row, row + 1, float(row), FLOW)
    assert pending.pop_batch(500).ranges[-1] == (998, 999)
    for row in range(1000, 4000, 4):
        assert pending.withdraw(row, row + 2) == 1
    assert rows_of(pending.pop_batch(4000).ranges) == list(range(1002, 4000, 4))
    assert (pending.rows, FLOW.pending) == (0, 0)
