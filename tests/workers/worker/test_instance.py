import weakref

import msgspec
import numpy as np
import pytest
from arenas import arena_spec, claim, ensemble, mapped, open_arena, vector

import workers.worker.instance
from workers.backends import Model
from workers.runtime.spec import (
    Binding,
    BlockSpec,
    InstanceSpec,
    ModelSignature,
    ModelSource,
    OutputSpec,
    Scaling,
    TensorSpec,
)
from workers.worker.host_memory import HUGE_PAGE_BYTES
from workers.worker.instance import DeviceLost, Instance

START = 32 * 5
SPEC = arena_spec()
MEMBER = 1


class Stub(Model):
    """A model that answers [2 x, -x] for the first input's first element; a row may be poison."""

    def __init__(self):
        self.batches = []
        self.poison = set()
        self.answers = {}
        self.signature = ModelSignature((TensorSpec("x", "FP32", (2,)),), (vector(2),), 0)

    def arm(self):
        self.armed = True

    def predict(self, inputs):
        rows = [float(row[0]) for row in inputs[0]]
        self.batches.append(rows)
        if self.poison & set(rows):
            raise RuntimeError(f"poison in {len(rows)} rows")
        answers = [self.answers.get(row, [2 * row, -row]) for row in rows]
        return [np.array(answers, np.float32).reshape(len(rows), 2)]

    def close(self):
        pass


@pytest.fixture
def arena():
    with mapped(SPEC) as memory:
        yield open_arena(memory)


@pytest.fixture
def model():
    return Stub()


@pytest.fixture
def make(arena, model):
    def make(meaning="values", batch=8, answers=(), probes=False, **fields):
        model.answers.update(answers)
        source = ModelSource("b", "fake")
        outputs = (OutputSpec(MEMBER, meaning, **{"classes": 2, **fields}),)
        spec = InstanceSpec(0, MEMBER, batch, source, model.signature, (Binding(0),), outputs)
        return Instance(spec, arena, model, probes_device=probes)

    return make


def check(arena, good, bad=()):
    """These rows have their prediction and those have failed, and no other row is touched."""
    done = dict.fromkeys(range(arena.capacity), 0)
    for row in good:
        slot = row % arena.capacity
        done[slot] = row
        np.testing.assert_array_equal(arena.predictions[MEMBER][slot], [2 * row, -row])
    done |= {row % arena.capacity: -row for row in bad}
    assert arena.done[MEMBER].tolist() == [done[slot] for slot in range(arena.capacity)]
    assert not arena.done[0].any()
    assert not arena.done[2].any()


def test_one_range_is_one_batch(arena, model, make):
    claim(arena, START, START + 8, expected=0b111)
    assert make().run([(START + 2, START + 5)]) == ""
    assert model.batches == [[START + 2, START + 3, START + 4]]
    check(arena, range(START + 2, START + 5))


def test_several_ranges_are_gathered_into_one_batch(arena, model, make):
    claim(arena, START, START + 8, expected=0b111)
    claim(arena, START + 8, START + 16, expected=0b111)
    ranges = [(START + 14, START + 16), (START, START + 1), (START + 5, START + 8)]
    assert make().run(ranges) == ""
    wanted = [row for start, stop in ranges for row in range(start, stop)]
    assert model.batches == [wanted]
    check(arena, wanted)


@pytest.mark.parametrize("poisonous", [[0], [3], [7], [0, 1], [2, 6], [0, 7], list(range(8))])
@pytest.mark.parametrize("pieces", [[(0, 8)], [(0, 3), (4, 5), (3, 4), (5, 8)]])
def test_an_exception_is_retried_down_to_the_poisonous_row(arena, model, make, poisonous, pieces):
    claim(arena, START, START + 8, expected=0b111)
    model.poison = {START + row for row in poisonous}
    error = make().run([(START + start, START + stop) for start, stop in pieces])
    assert error == "RuntimeError: poison in 1 rows"
    bad = sorted(model.poison)
    check(arena, [row for row in range(START, START + 8) if row not in bad], bad)
    assert len(model.batches) <= 2 * 8 - 1, "halves, not row by row"


def test_out_of_memory_for_a_full_batch_is_no_failure(arena, model, make):
    """Smaller batches find the memory that the one that failed had taken."""
    claim(arena, START, START + 8, expected=0b111)
    predict = model.predict
    taken = weakref.WeakSet()

    class Layer:
        """What a model makes on its way."""

    def predict_four(inputs):
        assert not taken
        layer = Layer()
        taken.add(layer)
        if len(inputs[0]) > 4:
            raise MemoryError("too big a batch")
        return predict(inputs)

    model.predict = predict_four
    assert make().run([(START, START + 8)]) == ""
    check(arena, range(START, START + 8))


def breaking_at(model, poison, error):
    """Let a model fail for ever once it has seen a row."""
    predict, broken = model.predict, []

    def once_broken(inputs):
        broken.extend(row for row in inputs[0] if row[0] == poison)
        if broken:
            raise error
        return predict(inputs)

    model.predict = once_broken


def test_a_device_that_is_lost_fails_no_row(arena, model, make):
    """They are tried again on the next worker, one by one in the end."""
    claim(arena, START, START + 4, expected=0b111)
    breaking_at(model, START + 2, RuntimeError("an illegal memory access was encountered"))
    with pytest.raises(DeviceLost, match="'b'.*an illegal memory access"):
        make(probes=True).run([(START, START + 4)])
    check(arena, [])


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("CUDA out of memory")])
def test_a_device_without_memory_is_not_lost(arena, model, make, error):
    claim(arena, START, START + 1, expected=0b111)
    breaking_at(model, START, error)
    assert make(probes=True).run([(START, START + 1)])
    check(arena, [], [START])


def test_a_device_that_still_computes_fails_one_row(arena, model, make):
    claim(arena, START, START + 4, expected=0b111)
    model.poison = {START + 2}
    assert make(probes=True).run([(START, START + 4)]) == "RuntimeError: poison in 1 rows"
    check(arena, [START, START + 1, START + 3], [START + 2])


@pytest.mark.parametrize(
    ("meaning", "output", "is_bad"),
    [
        ("values", [np.nan, 1], True),
        ("values", [np.inf, 1], False),
        ("values", [np.inf, -np.inf], False),
        ("values", [3e38, 3e38], False),
        ("probabilities", [np.nan, 1], True),
        ("probabilities", [np.inf, 1], True),
        ("logits", [np.nan, 1], True),
        ("logits", [np.inf, 1], True),
        ("logits", [-np.inf, 1], False),
        ("logits", [-np.inf, -np.inf], True),
        ("logits", [3e38, -3e38], False),
    ],
)
def test_a_row_that_means_nothing_fails_alone(arena, make, meaning, output, is_bad):
    claim(arena, START, START + 4, expected=0b111)
    instance = make(meaning, answers={START + 1: output})
    error = instance.run([(START, START + 4)])
    done = [START, -START - 1 if is_bad else START + 1, START + 2, START + 3]
    assert arena.done[MEMBER, :4].tolist() == done
    assert error == ("not a finite number in its output" if is_bad else "")


@pytest.mark.parametrize(("index", "is_bad"), [(0, False), (1, False), (-1, True), (2, True)])
def test_a_row_of_no_class_fails_alone(arena, make, model, index, is_bad):
    claim(arena, START, START + 4, expected=0b111)
    model.predict = lambda inputs: [np.array([0, index, 1, 1])[: len(inputs[0])]]
    error = make("class").run([(START, START + 4)])
    done = [START, -START - 1 if is_bad else START + 1, START + 2, START + 3]
    assert arena.done[MEMBER, :4].tolist() == done
    assert error == ("a class that is none of 0 to 1 in its output" if is_bad else "")
    assert arena.predictions[MEMBER][[0, 2, 3]].tolist() == [[1, 0], [0, 1], [0, 1]]


def test_a_class_that_there_is_not_in_the_warm_up(make, model):
    model.predict = lambda inputs: [np.full((len(inputs[0]), 1), 7)]
    with pytest.raises(ValueError, match="a class that is none of 0 to 1 in the output of the war"):
        make("class").warm_up()


@pytest.mark.parametrize(
    ("meaning", "output", "is_bad"),
    [
        ("logits", [np.nan, 1], True),
        ("logits", [-np.inf, 1], False),
        ("logits", [-np.inf, -np.inf], True),
        ("logits", [3e38, -3e38], False),
        ("probabilities", [np.nan, 1], True),
        ("probabilities", [np.inf, 1], True),
        ("probabilities", [0, 0], True),
        ("probabilities", [0, 1], False),
    ],
)
def test_no_temperature_makes_sense_of_nonsense(arena, make, meaning, output, is_bad):
    fine = {START + row: [0.25, 0.75] for row in range(4)}
    for temperature in (0.01, 0.5, 3.0, 1000.0):
        claim(arena, START, START + 4, expected=0b111)
        instance = make(meaning, answers=fine | {START + 1: output}, temperature=temperature)
        error = instance.run([(START, START + 4)])
        done = [START, -START - 1 if is_bad else START + 1, START + 2, START + 3]
        assert arena.done[MEMBER, :4].tolist() == done
        assert error == ("not a finite number in its output" if is_bad else "")
        np.testing.assert_allclose(arena.predictions[MEMBER][[0, 2, 3]].sum(axis=1), 1, rtol=1e-6)


def test_rows_that_have_all_ended_are_skipped(arena, model, make):
    slots = claim(arena, START, START + 4, expected=0b111)
    arena.ended[slots] = [START, -START - 1, START + 2, -START - 3]
    arena.closing[slots] = arena.row_numbers(START, START + 4)
    assert make().run([(START, START + 2), (START + 2, START + 4)]) is None
    assert model.batches == []
    check(arena, [])


def test_a_former_row_that_has_ended_does_not_count(arena, model, make):
    slots = claim(arena, START, START + 2, expected=0b111)
    arena.ended[slots] = [START - 32, -START + 31]
    assert make().run([(START, START + 2)]) == ""
    check(arena, [START, START + 1])


def test_a_batch_with_one_live_row_is_predicted(arena, make):
    slots = claim(arena, START, START + 2, expected=0b111)
    arena.ended[slots] = [START, 0]
    assert make().run([(START, START + 2)]) == ""
    assert arena.done[MEMBER, 1] == START + 1


def test_warm_up_measures_and_arms(make, model):
    instance = make(batch=4)
    instance.warm_up()
    assert sorted({len(batch) for batch in model.batches}) == [1, 4]
    assert all(latency > 0 for latency in instance.latency_s)
    attempts = []
    instance.run([(START, START + 4)], attempts.append)
    assert attempts == [max(instance.latency_s)]
    assert model.armed


@pytest.mark.parametrize("weights_bytes", [HUGE_PAGE_BYTES, HUGE_PAGE_BYTES - 1])
@pytest.mark.parametrize("on_gpu", [False, True])
def test_big_weights_in_ram_are_put_on_huge_pages(make, model, monkeypatch, weights_bytes, on_gpu):
    calls = []
    monkeypatch.setattr(
        workers.worker.instance, "use_huge_pages", lambda: calls.append(len(model.batches))
    )
    model.signature = msgspec.structs.replace(model.signature, parameter_bytes=weights_bytes)
    make(probes=on_gpu).warm_up()
    wanted = weights_bytes >= HUGE_PAGE_BYTES and not on_gpu
    assert calls == [len(model.batches)] * wanted, "when all of its memory is there"


def test_nan_in_the_warm_up_names_the_member(make, model):
    model.predict = lambda inputs: [np.full((len(inputs[0]), 2), np.nan, np.float32)]
    with pytest.raises(ValueError, match="member 'b' .*NaN in the output of the warm-up"):
        make().warm_up()


def test_a_failure_in_the_warm_up_names_the_member(make, model):
    model.predict = lambda inputs: (_ for _ in ()).throw(RuntimeError("no kernel"))
    with pytest.raises(
        ValueError, match=r"member 'b' \(.*\): in the warm-up with 1 rows: no kernel"
    ):
        make().warm_up()


@pytest.mark.parametrize("shape", [(1, 2), (2, 2), (4, 1), (4,), (4, 2, 1)])
def test_an_answer_without_a_row_per_row_is_found_in_the_warm_up(make, model, shape):
    model.predict = lambda inputs: [np.zeros((1, 2) if len(inputs[0]) == 1 else shape, np.float32)]
    with pytest.raises(ValueError, match="member 'b' .*to a batch of 4 rows"):
        make(batch=4).warm_up()


@pytest.mark.parametrize("shape", [(1, 2), (3, 1), (3,), (2,)])
def test_no_answer_is_stretched_over_rows(arena, make, model, shape):
    model.predict = lambda inputs: [np.zeros(shape, np.float32)]
    claim(arena, START, START + 3, expected=0b111)
    error = make().run([(START, START + 3)])
    sign = 1 if shape == (1, 2) else -1  # each row by itself is answered
    assert bool(error) == (sign < 0)
    assert arena.done[MEMBER, :3].tolist() == [sign * (START + row) for row in range(3)]


# -- before and after the model ----------------------------------------------------------------


@pytest.mark.parametrize("meaning", ["values", "probabilities"])
def test_other_outputs_stay_as_they_are(arena, make, meaning):
    claim(arena, START, START + 1, expected=0b111)
    assert make(meaning).run([(START, START + 1)]) == ""
    check(arena, [START])


def test_every_input_of_a_model_comes_from_its_own_view(model):
    views = (TensorSpec("z", "FP32", (2,)), TensorSpec("image.0", "UINT8", (2, 2, 3)))
    spec = arena_spec(views=views, ensembles=(ensemble("all", (0, 1, 2)),))
    seen = []

    def predict(inputs):
        seen.append(inputs)
        return [np.zeros((len(inputs[0]), 2), np.float32)]

    model.predict = predict
    with mapped(spec) as memory:
        arena = open_arena(memory)
        claim(arena, 33, 35, expected=0b111)
        scaling = Scaling((1, 1, 1), (2, 2, 2), "nchw")
        signature = ModelSignature(
            (TensorSpec("p", "FP32", (3, 2, 2)), TensorSpec("q", "FP32", (2,))), (vector(2),), 0
        )
        instance = Instance(
            InstanceSpec(
                0,
                0,
                4,
                ModelSource("a", "fake"),
                signature,
                (Binding(1, scaling), Binding(0)),
                (OutputSpec(0, "values"),),
            ),
            arena,
            model,
        )
        instance.warm_up()
        seen.clear()
        assert instance.run([(33, 35)]) == ""
        pixels, tensor = seen[0]
        assert (pixels.shape, pixels.dtype) == ((2, 3, 2, 2), np.float32)
        assert pixels[1, 0, 0, 0] == (34 - 1) / 2
        assert tensor.tolist() == [[33, 33], [34, 34]]
        del pixels, tensor
        seen.clear()


def test_several_outputs_go_to_areas_of_their_own(model):
    """A row is done when all its outputs are, and fails if one of them is none."""
    spec = arena_spec(blocks=(BlockSpec((0, 1, 2), "FP32", (2,)), BlockSpec((3,), "FP32", (2, 2))))
    boxes = TensorSpec("boxes", "FP32", (-1, 2))

    def predict(inputs):
        rows = len(inputs[0])
        boxes = np.arange(rows * 2, dtype=np.float32).reshape(rows, 1, 2)
        boxes[inputs[0][:, 0] == 35] = np.nan
        return [np.full((rows, 2), 7, np.float32), boxes]

    model.predict = predict
    with mapped(spec) as memory:
        arena = open_arena(memory)
        claim(arena, 33, 36, expected=0b010)
        arena.views[0][:] = 1
        arena.views[0][35 % 32] = 35
        signature = ModelSignature((TensorSpec("x", "FP32", (2,)),), (vector(2), boxes), 0)
        outputs = (OutputSpec(1, "values"), OutputSpec(3, "values", is_padded=True))
        source = ModelSource("b", "fake")
        instance = Instance(
            InstanceSpec(0, 1, 4, source, signature, (Binding(0),), outputs), arena, model
        )
        assert instance.run([(33, 36)]) == "not a finite number in its output"
        assert arena.done[1][1:4].tolist() == [33, 34, -35]
        assert arena.predictions[1][1].tolist() == [7, 7]
        assert arena.predictions[3][2].tolist() == [[2, 3], [0, 0]], "padded with zeros"
        model.predict = lambda inputs: [*predict(inputs)[:1], np.ones((len(inputs[0]), 5, 2))]
        instance.run([(33, 34)])
        assert arena.predictions[3][1].tolist() == [[1, 1], [1, 1]], "and cut"
