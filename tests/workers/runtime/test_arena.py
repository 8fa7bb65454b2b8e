import numpy as np
import pytest
from arenas import arena_spec, claim, ensemble, mapped, open_arena, vector

from workers.runtime.arena import Arena, answer_stride, arena_bytes, bytes_per_row, group_blocks
from workers.runtime.memory import SharedMemory
from workers.runtime.spec import BlockSpec, TensorSpec

MIXED = arena_spec(
    segments=3,
    segment_rows=5,
    views=(
        TensorSpec("a", "FP32", (3,)),
        TensorSpec("b", "UINT8", (5, 5, 3)),
        TensorSpec("c", "BOOL", ()),
    ),
    members=("a", "b", "c", "d"),
    blocks=(BlockSpec((0, 2), "FP32", (3,)), BlockSpec((1, 3), "FP64", ())),
    ensembles=(
        ensemble("narrow", (0, 2), output=vector(3)),
        ensemble("scalar", (1, 3), output=TensorSpec("output", "FP64", ())),
    ),
)


def arrays_of(arena):
    return {
        **{
            name: getattr(arena, name)
            for name in ("row", "ensemble", "expected", "closing", "ended", "used", "done")
        },
        **{f"view {i}": view for i, view in enumerate(arena.views)},
        **{f"predictions {i}": area for i, area in enumerate(arena.predictions)},
        "answers": arena.answers(arena.spec.ensembles[0]),
    }


def extent(array):
    low, high = np.lib.array_utils.byte_bounds(array)
    return low, high


@pytest.mark.parametrize("spec", [arena_spec(), MIXED])
def test_nothing_overlaps_and_everything_lies_inside(spec):
    with mapped(spec) as memory:
        mapping = SharedMemory(memory).map(memory.generation)
        arena = Arena(mapping, spec)
        whole = np.frombuffer(mapping, np.uint8)
        first = whole.__array_interface__["data"][0] + spec.offset
        last = first + arena_bytes(spec)
        spans = sorted((*extent(array), name) for name, array in arrays_of(arena).items())
        for (_, stop, name), (start, _, following) in zip(spans, spans[1:], strict=False):
            assert stop <= start, f"{name} reaches into {following}"
        assert first <= spans[0][0]
        assert spans[-1][1] <= last


@pytest.mark.parametrize("spec", [arena_spec(), MIXED])
def test_arrays_are_aligned(spec):
    with mapped(spec) as memory:
        arena = open_arena(memory)
        for name, array in arrays_of(arena).items():
            if not name.startswith("predictions"):
                assert array.__array_interface__["data"][0] % 64 == 0, name
            assert array.flags.aligned, name


def test_two_mappings_see_the_same_and_every_array_is_its_own():
    with mapped(MIXED) as memory:
        one, two = arrays_of(open_arena(memory)), arrays_of(open_arena(memory))
        generator = np.random.default_rng(0)
        written = {}
        for name, array in one.items():
            values = generator.integers(0, 2, array.shape)
            array[...] = values
            written[name] = values
        for name, array in two.items():
            np.testing.assert_array_equal(array, written[name], err_msg=name)


def test_arenas_in_one_memory_do_not_touch():
    first = arena_spec()
    second = arena_spec(offset=first.offset + arena_bytes(first))
    with mapped(first, second) as memory:
        one, two = open_arena(memory, 0), open_arena(memory, 1)
        for array in arrays_of(one).values():
            array[...] = 1
        for name, array in arrays_of(two).items():
            assert not array.any(), name


def test_ranges_slots_and_answers():
    spec = arena_spec()
    with mapped(spec) as memory:
        arena = open_arena(memory)
        assert arena.capacity == 32
        assert arena.last_row() == 0
        assert arena.slots(70, 72) == slice(6, 8)
        claim(arena, 70, 72, expected=0b111)
        assert arena.last_row() == 71
        np.testing.assert_array_equal(arena.views[0][6:8], [[70, 70], [71, 71]])
        arena.answers(spec.ensembles[0])[6:8] = [[1, 2], [3, 4]]
        assert (
            arena.answer_bytes(spec.ensembles[0], 70, 72)
            == np.arange(1, 5, dtype=np.float32).tobytes()
        )


def test_answers_of_ensembles_of_different_types_share_their_slots():
    with mapped(MIXED) as memory:
        arena = open_arena(memory)
        narrow, scalar = MIXED.ensembles
        arena.answers(scalar)[2] = 0.1
        arena.answers(narrow)[3] = [1, 2, 3]
        assert np.frombuffer(arena.answer_bytes(scalar, 2, 3), np.float64) == [0.1]
        assert np.frombuffer(arena.answer_bytes(narrow, 3, 4), np.float32).tolist() == [1, 2, 3]


def test_sizes():
    outputs = [vector(3), vector(3, "FP64"), vector(3), vector(2)]
    assert group_blocks(outputs) == (
        BlockSpec((0, 2), "FP32", (3,)),
        BlockSpec((1,), "FP64", (3,)),
        BlockSpec((3,), "FP32", (2,)),
    )
    assert answer_stride([ensemble("e", (0,), output=vector(3))]) == 16
    for spec in (arena_spec(), MIXED):
        row = bytes_per_row(spec.views, spec.blocks, spec.ensembles)
        assert row * spec.capacity <= arena_bytes(spec) < row * spec.capacity + (64 << 10)
