"""Rows of different sizes: padded, or in parts of equal sizes, and what comes back of them."""

import numpy as np
import pytest
from arenas import arena_spec, claim, ensemble, mapped, open_arena
from ensembled_client.wire import join_elements
from hypothesis import given
from hypothesis import strategies as st

from workers.runtime.spec import (
    Binding,
    BlockSpec,
    InstanceSpec,
    ModelSignature,
    ModelSource,
    OutputSpec,
    TensorSpec,
)
from workers.worker.instance import Instance
from workers.worker.padding import bounded_groups, equal_groups

IDS = TensorSpec("ids", "INT32", (-1,), (8,), ("ids.1",))
PLANE = TensorSpec("plane", "FP32", (2, -1, -1), (2, 6, 6), ("", "plane.2", "plane.3"))
TEXT = TensorSpec("text", "BYTES", (2,), (), ("", "text.bytes"), 24)
OUT = TensorSpec("output", "FP32", (1,))
TOKENS = TensorSpec("tokens", "FP32", (-1, 1), (8, 1), ("ids.1", ""))
START = 32 * 5
ROWS = slice(0, 4)


class Recorder:
    """A model that remembers its batches; it answers sums, or each token if it is `per_token`."""

    example = None

    def __init__(self, *inputs, per_token=False):
        output = TOKENS if per_token else OUT
        self.signature = ModelSignature(inputs, (output,), 0)
        self.batches = []

    def arm(self):
        pass

    def predict(self, inputs):
        self.batches.append([one.copy() for one in inputs])
        for one in inputs:
            assert one.flags.c_contiguous
        first = inputs[0]
        if self.signature.output is TOKENS:
            return [np.where(first < 0, np.nan, first).astype(np.float32)[..., np.newaxis]]
        if first.dtype == object:
            return [np.array([[len(b"".join(row))] for row in first], np.float32)]
        return [first.reshape(len(first), -1).sum(axis=1, keepdims=True).astype(np.float32)]

    def close(self):
        pass


class Scene:
    """An instance of a member in an arena with four claimed rows."""

    def __init__(self, arena, model, **fields):
        self.arena, self.model = arena, model
        views = arena.spec.views
        pads = fields.pop("pads", [None] * len(views))
        output = OutputSpec(0, "values", symbols=model.signature.output.symbols)
        bindings = tuple(map(Binding, range(len(views)), [None] * len(views), pads))
        source = ModelSource("m", "fake")
        spec = InstanceSpec(0, 0, 8, source, model.signature, bindings, (output,), **fields)
        self.instance = Instance(spec, arena, model)

    @property
    def shapes(self):
        return [batch[0].shape for batch in self.model.batches]


@pytest.fixture
def make():
    opened = []

    def make(view, model, **fields):
        shape = (8, 1) if model.signature.output is TOKENS else (1,)
        spec = arena_spec(
            views=(view,),
            members=("m",),
            blocks=(BlockSpec((0,), "FP32", shape),),
            ensembles=(ensemble("m", (0,), output=model.signature.output),),
        )
        memory = mapped(spec)
        opened.append(memory)
        return Scene(open_arena(memory.__enter__()), model, **fields)

    yield make
    for memory in opened:
        memory.__exit__(None, None, None)


def predict(scene, *rows):
    """Predicts rows, each with its own sizes; what is beyond them is left from earlier ones."""
    claim(scene.arena, START, START + len(rows), expected=1)
    view, shape = scene.arena.views[0], scene.arena.spec.views[0].shape
    view[...] = 99
    for slot, row in enumerate(rows):
        array = np.array(row)
        view[(slot, *map(slice, array.shape))] = array
        sizes = zip(array.shape, shape, strict=True)
        scene.arena.dims[:, slot] = [size for size, own in sizes if own < 0]
    return scene.instance.run([(START, START + len(rows))])


def test_rows_are_padded_to_the_longest(make):
    scene = make(IDS, Recorder(IDS), pads=[-7])
    assert predict(scene, [1], [1, 2, 3], [4, 5]) == ""
    (batch,) = scene.model.batches
    assert batch[0].tolist() == [[1, -7, -7], [1, 2, 3], [4, 5, -7]]
    assert batch[0].dtype == np.int32


@pytest.mark.parametrize(("buckets", "width"), [((2, 4, 8), 4), ((3, 8), 3), ((12,), 12)])
def test_rows_are_padded_to_a_bucket(make, buckets, width):
    scene = make(IDS, Recorder(IDS), pads=[0], buckets=buckets)
    assert predict(scene, [1], [1, 2, 3]) == ""
    assert scene.model.batches[0][0].tolist() == [
        [1, *[0] * (width - 1)],
        [1, 2, 3, *[0] * (width - 3)],
    ]


def test_a_model_s_example_is_as_large_as_the_class_in_the_warm_up(make):
    scene = make(IDS, Recorder(IDS, per_token=True))
    scene.model.example = (np.array([[1, 2, 3]], np.int32),)
    scene.instance.warm_up()
    assert scene.shapes == [(1, 8), (1, 8), (8, 8), (8, 8)]
    assert scene.model.batches[0][0][0].tolist() == [1, 2, 3, 1, 2, 3, 1, 2]


def test_without_padding_rows_of_equal_sizes_share_a_batch(make):
    scene = make(IDS, Recorder(IDS))
    assert predict(scene, [1, 1], [2, 2, 2], [3, 3], [4]) == ""
    batches = [batch[0].tolist() for batch in scene.model.batches]
    assert batches == [[[1, 1], [3, 3]], [[2, 2, 2]], [[4]]]
    assert scene.arena.predictions[0][ROWS, 0].tolist() == [2, 6, 6, 4]
    assert scene.arena.done[0][ROWS].tolist() == [START, START + 1, START + 2, START + 3]


def test_two_dimensions_are_padded_within_bounds(make):
    scene = make(PLANE, Recorder(PLANE), pads=[0])
    ones = [np.ones((2, *size)).tolist() for size in [(6, 1), (1, 6), (5, 1), (1, 1)]]
    assert predict(scene, *ones) == ""
    assert sorted(scene.shapes) == [(2, 2, 1, 6), (2, 2, 6, 1)]
    assert scene.arena.predictions[0][ROWS, 0].tolist() == [12, 12, 10, 2]


def test_a_failed_row_of_a_part_fails_alone(make):
    scene = make(IDS, Recorder(IDS, per_token=True))
    assert predict(scene, [1, 2], [-1], [3, 4]) == "not a finite number in its output"
    assert scene.arena.done[0][:3].tolist() == [START, -START - 1, START + 2]


def test_outputs_of_variable_size_are_without_padding(make):
    scene = make(IDS, Recorder(IDS, per_token=True), pads=[-1])
    scene.arena.predictions[0][...] = 55
    assert predict(scene, [1], [1, 2, 3]) == "", "NaN where only padding is"
    assert scene.arena.predictions[0][:2, :3, 0].tolist() == [[1, 0, 0], [1, 2, 3]]


def test_outputs_are_cut_where_a_bucket_exceeds_the_class(make):
    scene = make(IDS, Recorder(IDS, per_token=True), pads=[0], buckets=(20,))
    assert predict(scene, [1] * 8, [2]) == ""
    assert scene.shapes == [(2, 20)]
    assert scene.arena.predictions[0][:2, :, 0].tolist() == [[1] * 8, [2] + [0] * 7]


def test_texts_are_decoded(make):
    scene = make(TEXT, Recorder(TEXT))
    claim(scene.arena, START, START + 2, expected=1)
    for slot, texts in enumerate([[b"a", b"bc"], [b"", b""]]):
        encoded = np.frombuffer(join_elements(texts), np.uint8)
        scene.arena.views[0][slot, : len(encoded)] = encoded
        scene.arena.dims[0, slot] = len(encoded)
    assert scene.instance.run([(START, START + 2)]) == ""
    (batch,) = scene.model.batches
    assert batch[0].tolist() == [[b"a", b"bc"], [b"", b""]]
    assert scene.arena.predictions[0][:2, 0].tolist() == [3, 0]


def test_the_warm_up_has_the_largest_sizes(make):
    scene = make(IDS, Recorder(IDS), pads=[0])
    scene.instance.warm_up()
    assert set(scene.shapes) == {(1, 8), (8, 8)}
    texts = make(TEXT, Recorder(TEXT))
    texts.instance.warm_up()
    assert {len(b"".join(batch[0][0])) for batch in texts.model.batches} == {16}


SIZES = st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=12)


@given(SIZES)
def test_groups_have_each_row_once(sizes):
    own = np.array(sizes).T
    for divide in (equal_groups, bounded_groups):
        positions = np.concatenate(list(divide(own)))
        assert sorted(positions.tolist()) == list(range(len(sizes)))
    for group in equal_groups(own):
        assert len({sizes[position] for position in group}) == 1
    for group in bounded_groups(own):
        given_elements = sum(sizes[position][0] * sizes[position][1] for position in group)
        padded = own[:, group].max(axis=1).prod() * len(group)
        assert padded <= 2 * given_elements
