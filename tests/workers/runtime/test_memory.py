"""The shared memory: ranges come and go, and what is cut out is given back."""

import gc
import mmap
import os
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from workers.runtime.memory import (
    BOARD_CELLS,
    BoardRow,
    SharedMemory,
    add_range,
    board_bytes,
    create_memory,
    cut_out,
)
from workers.runtime.spec import GenerationSpec, MemorySpec

PAGE = mmap.PAGESIZE
SECOND = 10**9


@contextmanager
def created(nbytes):
    fd = create_memory(nbytes)
    try:
        yield fd
    finally:
        os.close(fd)


def allocated(fd):
    """The bytes that the memory takes of the system."""
    return os.fstat(fd).st_blocks * 512


def mappings():
    return Path("/proc/self/maps").read_text().count("/memfd:ensembled")


@pytest.mark.parametrize(("first", "offset"), [(1, PAGE), (PAGE, PAGE), (PAGE + 1, 2 * PAGE)])
def test_ranges_follow_one_another_in_whole_pages(first, offset):
    with created(first) as fd:
        assert add_range(fd, 5) == (offset, PAGE)
        assert add_range(fd, 2 * PAGE + 1) == (offset + PAGE, 3 * PAGE)
        assert os.fstat(fd).st_size == offset + 4 * PAGE
        assert allocated(fd) == 0, "nothing is touched"


def test_a_range_is_mapped_alone_and_shared_with_other_mappings_of_it():
    with created(PAGE) as fd:
        memory = SharedMemory(MemorySpec(fd, PAGE, ("front-end",)))
        before = mappings()
        specs = [GenerationSpec(number, *add_range(fd, PAGE), ()) for number in (1, 2)]
        mapped = [memory.map(spec) for spec in (*specs, specs[1])]
        assert [len(one) for one in mapped] == [PAGE] * 3
        mapped[1][0] = 7
        assert [one[0] for one in mapped] == [0, 7, 7]
        view = memoryview(mapped[0])
        del mapped
        gc.collect()
        assert mappings() == before + 1, "something refers to it"
        del view
        assert mappings() == before


def test_what_is_cut_out_goes_back_to_the_system_and_its_neighbours_stay():
    with created(0) as fd:
        parts = [add_range(fd, 4 * PAGE) for _ in range(3)]
        whole = mmap.mmap(fd, 12 * PAGE)
        whole[:] = b"x" * len(whole)
        assert allocated(fd) == 12 * PAGE
        cut_out(fd, *parts[1])
        assert allocated(fd) == 8 * PAGE
        assert whole[:] == b"x" * 4 * PAGE + bytes(4 * PAGE) + b"x" * 4 * PAGE
        assert add_range(fd, PAGE) == (12 * PAGE, PAGE), "places are never given twice"


def test_a_thousand_ranges_take_no_more_memory_than_one():
    with created(PAGE) as fd:
        for _ in range(1000):
            offset, nbytes = add_range(fd, 3 * PAGE)
            with mmap.mmap(fd, nbytes, offset=offset) as part:
                part[:] = b"x" * nbytes
            cut_out(fd, offset, nbytes)
        assert allocated(fd) == 0


def test_a_process_that_loads_is_excused_for_a_while():
    row = BoardRow(memoryview(bytearray(board_bytes(1)))[: 8 * BOARD_CELLS].cast("q"))
    row.beat()
    now = time.monotonic_ns()
    row.begin(3, now)
    row.excuse(60)
    assert not row.is_hung(now + 50 * SECOND, SECOND), "neither its job"
    row.end(now)
    assert not row.is_hung(now + 50 * SECOND, SECOND), "nor its beats count"
    assert row.is_hung(now + 70 * SECOND, SECOND)
    row.clear()
    row.beat()
    assert row.is_hung(now + 50 * SECOND, SECOND), "its successor is not excused"
