"""What the processes are told: arenas, ensembles, instances, models."""

from pathlib import Path

import pytest
from inspected import X, Y, composed, image, meaning, member, problems, renaming
from msgspec.structs import replace

from server.errors import ConfigError
from server.inference.spec import InputSpec, StoredView
from server.members.ensembles import RuleFinding
from workers.runtime.arena import arena_bytes
from workers.runtime.spec import (
    Binding,
    ModelSource,
    OutputSpec,
    Preparation,
    Scaling,
    TensorSpec,
)


def test_members_of_equal_input_share_an_arena():
    other = (TensorSpec("z", "FP32", (4,)),)
    result = composed(
        [member("a"), member("b", inputs=other), member("c"), member("d", inputs=other)],
        {"ac": {"members": ["c", "a"], "quorum": 1}},
    )
    first, second = result.arenas
    assert (first.members, second.members) == (("a", "c"), ("b", "d"))
    assert [ensemble.name for ensemble in first.ensembles] == ["ac", "a", "c"]
    assert first.ensembles[0].members == (1, 0)
    assert first.ensembles[0].quorum == 1
    assert first.offset == 0
    assert second.offset == arena_bytes(first) == result.arena_bytes - arena_bytes(second)
    assert (first.index, second.index) == (0, 1)
    assert [model.served.name for model in result.models] == ["ac", "a", "c", "b", "d"]
    assert result.models[0].members == ("c", "a")
    assert [(one.arena, one.member) for one in result.instances["cpu:0"]] == [
        (0, 0),
        (1, 0),
        (0, 1),
        (1, 1),
    ]
    assert "cpu:1" not in result.instances


def test_an_instance_serves_every_ensemble_of_its_member():
    members = [member("a"), member("b"), member("c")]
    few = composed(members, {"e": {"members": ["a", "b"]}})
    many = composed(
        members,
        {f"e{i}": {"members": ["a", "b", "c"][i % 2 :]} for i in range(30)},
    )
    assert many.instances == few.instances
    assert [len(arena.ensembles) for arena in many.arenas] == [30 + 3]
    assert many.arenas[0].blocks == few.arenas[0].blocks, "no areas of their own"
    assert many.arenas[0].capacity == few.arenas[0].capacity


def test_inputs_are_equal_in_any_order_and_by_the_clients_names():
    p, q = TensorSpec("p", "FP32", (4,)), TensorSpec("q", "INT64", ())
    renamed = (TensorSpec("own.q", "INT64", ()), p)
    result = composed([member("a", inputs=(p, q)), renaming("b", renamed, {"own.q": "q"})])
    (arena,) = result.arenas
    assert arena.views == (p, q)
    first, second = result.instances["cpu:0"]
    assert first.bindings == (Binding(0), Binding(1))
    assert second.bindings == (Binding(1), Binding(0)), "in the order of the model's inputs"
    assert [one.tensor for one in result.models[1].inputs] == [q, p]
    assert [one.views for one in result.models[1].inputs] == [
        (StoredView(1, 0b10),),
        (StoredView(0, 0b10),),
    ]


def test_one_image_view_for_each_distinct_preparation():
    result = composed(
        [
            member("a", **image(8)),
            member("b", **image(8, mean=[1, 2, 3], layout="nhwc", channels_first=False)),
            member("c", **image(6)),
            member("d", **image(8, crop=1.0)),
        ],
        {"e": {"members": ["c", "b"]}},
    )
    (arena,) = result.arenas
    assert [view.shape for view in arena.views] == [(8, 8, 3), (6, 6, 3), (8, 8, 3)]
    assert all(view.datatype == "UINT8" for view in arena.views)
    a, b, c, d = (one.bindings[0] for one in result.instances["cpu:0"])
    assert [binding.view for binding in (a, b, c, d)] == [0, 0, 1, 2]
    assert a.scaling == Scaling((127, 127, 127), (128, 128, 128), "nchw")
    assert b.scaling == Scaling((1, 2, 3), (128, 128, 128), "nhwc")
    ensemble = result.models[0]
    assert ensemble.takes_images
    (sent,) = ensemble.inputs
    assert sent.tensor == TensorSpec("image", "BYTES", ())
    assert sent.views == (
        StoredView(1, 0b100, Preparation(6)),
        StoredView(0, 0b010, Preparation(8)),
    ), "only what it needs"


def test_members_of_one_ensemble_share_an_arena_whatever_they_take():
    z, n = TensorSpec("z", "FP32", (4,)), TensorSpec("n", "INT64", ())
    result = composed(
        [member("a"), member("b", inputs=(z,)), member("c", inputs=(*X, n)), member("d")],
        {"e": {"members": ["c", "b"]}},
    )
    first, second = result.arenas
    assert (first.members, second.members) == (("a", "d"), ("b", "c"))
    assert second.views == (z, *X, n)
    b, c = result.instances["cpu:0"][1:3]
    assert b.bindings == (Binding(0),)
    assert c.bindings == (Binding(1), Binding(2))
    models = {model.served.name: model for model in result.models}
    assert models["e"].inputs == (
        InputSpec(*X, (StoredView(1, 0b10),)),
        InputSpec(n, (StoredView(2, 0b10),)),
        InputSpec(z, (StoredView(0, 0b01),)),
    )
    assert models["b"].inputs == (InputSpec(z, (StoredView(0, 0b01),)),), "only its own"


def test_ensembles_connect_arenas_over_members_that_they_share():
    inputs = {name: (TensorSpec(name, "FP32", (4,)),) for name in "abcd"}
    members = [member(name, inputs=inputs[name]) for name in "abcd"]
    ensembles = {"e": {"members": ["a", "c"]}, "f": {"members": ["d", "c"]}}
    arenas = composed(members, ensembles).arenas
    assert [arena.members for arena in arenas] == [("a", "c", "d"), ("b",)]


def test_inputs_of_one_name_in_different_ensembles_have_views_of_their_own():
    n, wide = TensorSpec("n", "INT64", ()), TensorSpec("x", "FP32", (8,))
    result = composed(
        [member("a"), member("b", inputs=(n,)), member("c", inputs=(wide,))],
        {"ab": {"members": ["a", "b"]}, "bc": {"members": ["b", "c"]}},
    )
    (arena,) = result.arenas
    assert arena.views == (*X, n, wide)
    ab, bc = result.models[:2]
    assert [one.tensor for one in ab.inputs] == [*X, n]
    assert [one.tensor for one in bc.inputs] == [n, wide]
    assert bc.inputs[1].views == (StoredView(2, 0b100),)


def test_an_image_beside_tensors_in_one_member_and_beside_others():
    pixels, table = TensorSpec("pixels", "FP32", (3, 8, 8)), TensorSpec("t", "FP32", (5,))
    sizes = {"size": 8, "mean": 127, "std": 128}
    both = member("both", inputs=(table, pixels), tensors={"pixels": {"image": sizes}})
    result = composed(
        [both, member("photo", **image(6)), member("plain", inputs=(table,))],
        {"e": {"members": ["both", "photo", "plain"]}},
    )
    (arena,) = result.arenas
    assert [view.shape for view in arena.views] == [(5,), (8, 8, 3), (6, 6, 3)]
    bindings = [one.bindings for one in result.instances["cpu:0"]]
    scaling = Scaling((127, 127, 127), (128, 128, 128), "nchw")
    assert bindings == [
        (Binding(0), Binding(1, scaling)),
        (Binding(2, scaling),),
        (Binding(0),),
    ]
    model = result.models[0]
    assert [one.tensor for one in model.inputs] == [table, TensorSpec("image", "BYTES", ())]
    assert [one.members for one in model.inputs] == [0b101, 0b011]
    assert model.inputs[1].views == (
        StoredView(1, 0b001, Preparation(8)),
        StoredView(2, 0b010, Preparation(6)),
    )
    assert model.takes_images
    assert not result.models[3].takes_images


def test_what_the_client_sends_may_be_of_another_type_than_the_models():
    half = (TensorSpec("x", "FP16", (4,)),)
    members = [member("a"), renaming("b", half, {"x": {"datatype": "FP32"}})]
    result = composed(members, {"e": {"members": ["a", "b"]}})
    (arena,) = result.arenas
    assert arena.views == X
    assert [one.signature.inputs for one in result.instances["cpu:0"]] == [X, half]
    (line,) = problems([member("a"), member("b", inputs=half)])
    assert "members.b.inputs can convert it, or rename it" in line


def test_outputs_of_one_shape_get_one_type_that_is_wide_enough():
    result = composed(
        [
            member("half", output=TensorSpec("y", "FP16", (3,))),
            member("whole", output=TensorSpec("y", "INT64", (3,))),
            member("scalar", output=TensorSpec("y", "FP16", ())),
            member("bytes", output=TensorSpec("y", "UINT8", (2,))),
        ],
        {"e": {"members": ["half", "whole"]}},
    )
    (arena,) = result.arenas
    assert [(b.areas, b.datatype, b.shape) for b in arena.blocks] == [
        ((0, 1), "FP64", (3,)),
        ((2,), "FP32", ()),
        ((3,), "FP32", (2,)),
    ]
    assert [e.output.datatype for e in arena.ensembles] == [*["FP64"] * 3, *["FP32"] * 2]


def test_segments_hold_the_largest_batch_and_the_budget_holds_the_arenas():
    for batch in (1, 8, 200):
        for budget in (1 << 18, 1 << 20, 1 << 22):
            result = composed([member("a"), member("b")], batch=batch, budget=budget)
            (arena,) = result.arenas
            assert arena.segment_rows >= batch
            assert arena.segments >= 2
            assert arena_bytes(arena) <= budget
    cells = ((4, 0), (0, 128))
    (arena,) = composed([member("a"), member("b")], cells=cells).arenas
    assert arena.segment_rows >= 128


def test_an_arena_that_is_too_small():
    with pytest.raises(ConfigError, match="server.arena_bytes: 65536 bytes are too few") as caught:
        composed([member("a")], budget=64 << 10)
    wanted = int(str(caught.value).split("at least ")[1].split()[0])
    assert composed([member("a")], budget=wanted).arenas[0].capacity >= 16


def test_labels():
    with pytest.raises(
        ConfigError, match=r"members.a.labels: 2 labels for an output of shape \[3\]"
    ):
        composed([member("a", labels=("x", "y"))])
    result = composed(
        [member("a"), member("b", labels=("x", "y", "z"))], {"e": {"members": ["a", "b"]}}
    )
    assert [model.labels for model in result.models] == [("x", "y", "z"), (), ("x", "y", "z")]


def test_members_of_other_classes_share_an_arena_each_with_its_own():
    members = [
        meaning("a", "logits", labels=("x", "y", "z")),
        meaning("b", "probabilities", TensorSpec("y", "FP64", (4,)), ("w", "z", "y", "x")),
        meaning("c", "logits", labels=("x", "y", "z")),
    ]
    ensembles = {"ab": {"members": ["a", "b"]}, "ac": {"members": ["a", "c"]}}
    result = composed(members, ensembles)
    (arena,) = result.arenas
    assert [(one.areas, one.datatype, one.shape) for one in arena.blocks] == [
        ((0, 2), "FP32", (3,)),
        ((1,), "FP64", (4,)),
    ]
    ab, ac, a, b, _ = arena.ensembles
    assert ab.main.columns == ((0, 1, 2, -1), (3, 2, 1, 0))
    assert ab.output == TensorSpec("output", "FP64", (4,))
    assert (ac.main.columns, ac.output.datatype) == ((), "FP32")
    assert (a.main.columns, b.main.columns) == ((), ())
    assert [model.labels for model in result.models][:4] == [
        ("x", "y", "z", "w"),
        ("x", "y", "z"),
        ("x", "y", "z"),
        ("w", "z", "y", "x"),
    ]


def test_temperature_and_classes_go_to_the_instance():
    index = TensorSpec("y", "INT64", (1,))
    result = composed(
        [meaning("a", "logits", temperature=2.5), meaning("b", "class", index, classes=3)],
        {"e": {"members": ["b", "a"], "rule": "vote"}},
    )
    logits, index = result.instances["cpu:0"]
    assert logits.outputs == (OutputSpec(0, "logits", temperature=2.5),)
    assert index.outputs == (OutputSpec(1, "class", classes=3),)
    assert {e.output for e in result.arenas[0].ensembles} == {TensorSpec("output", "FP32", (3,))}


def test_a_meta_models_answer_is_the_ensembles():
    members = [member("a", labels=("x", "y", "z")), member("b")]
    meta = ModelSource("meta", "onnx", "meta.onnx")
    for answer, labels in ((Y, ("x", "y", "z")), (TensorSpec("y", "FP64", (2, 2)), ())):
        finding = RuleFinding((replace(answer, name="output"),), meta)
        result = composed(
            members,
            {"e": {"members": ["a", "b"], "rule": "stack", "meta": "meta.onnx"}},
            findings={("e", "output"): finding},
        )
        spec = result.arenas[0].ensembles[0]
        assert spec.output == TensorSpec("output", answer.datatype, answer.shape)
        assert spec.predicted == TensorSpec("output", "FP32", (3,))
        assert (spec.rules[0].meta, spec.needs_all) == (meta, True)
        assert result.models[0].labels == labels
        assert result.models[1].labels == ("x", "y", "z")


def test_parameters_of_rules():
    members = [member(name) for name in "abcde"]
    sections = {
        "trimmed": {"rule": "trimmed_mean"},
        "half": {"rule": "trimmed_mean", "trim": 0.4},
        "own": {"rule": "my.rules:best", "weights": [1, 2, 3, 4, 5]},
    }
    sections = {name: {"members": list("abcde"), **one} for name, one in sections.items()}
    trimmed, half, own, *_ = composed(members, sections).arenas[0].ensembles
    assert [one.rules[0].options for one in (trimmed, half)] == [{}, {"trim": 0.4}]
    assert own.weights == (1, 2, 3, 4, 5)
    assert own.rules[0].directory == str(Path.cwd())
    assert (trimmed.rules[0].directory, trimmed.needs_all, trimmed.predicted) == (
        "",
        False,
        trimmed.output,
    )
