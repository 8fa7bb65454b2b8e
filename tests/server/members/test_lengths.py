"""Length classes, and the arenas and models that they make."""

import pytest
from inspected import composed, member

from server.errors import ConfigError
from server.members.lengths import length_classes, padded_sizes
from workers.runtime.spec import TensorSpec


def ids(largest=512, name="ids"):
    return TensorSpec(name, "INT64", (-1,), (largest,), ("ids.1",))


def text(name, most):
    return TensorSpec(name, "BYTES", (), (), (f"{name}.bytes",), most)


def sizes_of(*members):
    return [list(one.values()) for one in length_classes(members)]


def test_default_classes_halve_until_a_slot_has_more_of_other_bytes():
    assert sizes_of(member("m", inputs=(ids(),))) == [[512], [256], [128], [64], [32]]
    assert sizes_of(member("m", inputs=(ids(500),))) == [[500], [250], [125], [63], [32]]
    assert sizes_of(member("m", inputs=(ids(9),))) == [[9]]


def test_there_are_nine_classes_at_most():
    (first, *_, last) = sizes_of(member("m", inputs=(ids(1 << 20),)))
    assert first == [1 << 20]
    assert last == [1 << 12]


def test_buckets_are_the_classes_with_the_largest_size():
    a = member("a", inputs=(ids(),), buckets=[32, 128])
    b = member("b", inputs=(ids(),), buckets=[64, 512])
    assert sizes_of(a) == [[512], [128], [32]]
    assert sizes_of(a, b) == [[512], [128], [64], [32]]


def test_several_sizes_shrink_together():
    plane = TensorSpec("x", "UINT8", (-1, -1), (64, 16), ("x.1", "x.2"))
    assert sizes_of(member("m", inputs=(plane,))) == [[64, 16], [32, 8]]
    both = member("m", inputs=(text("a", 1000), text("b", 100)))
    assert sizes_of(both) == [[1000, 100], [500, 50], [250, 25], [125, 13]]


def test_any_class_has_space_for_the_lengths_of_texts():
    columns = [text(f"column {i}", 300) for i in range(100)]
    (*_, smallest) = length_classes([member("m", inputs=tuple(columns))])
    assert set(smallest.values()) == {4}
    many = TensorSpec("x", "BYTES", (100,), (), ("", "x.bytes"), 1024)
    assert sizes_of(member("m", inputs=(many,))) == [[1024], [512], [400]]
    assert sizes_of(member("m", inputs=(text("a", 104),), buckets=[2, 52])) == [[104], [52], [4]]


def test_rows_are_padded_to_buckets_if_they_are_padded():
    def padded(**section):
        return padded_sizes(member("m", inputs=(ids(),), **section))

    assert padded(buckets=[32, 128], tensors={"ids": {"pad": 0}}) == (32, 128, 512)
    assert padded(buckets=[32, 512], tensors={"ids": {"pad": 0}}) == (32, 512)
    assert padded(tensors={"ids": {"pad": 0}}) == ()
    assert padded(buckets=[32, 128]) == ()


def test_an_arena_and_an_instance_per_class_and_one_model():
    mask = ids(name="mask")
    section = {"ids": {"pad": 1}, "mask": {"mask": "ids"}}
    members = [
        member("a", inputs=(ids(), mask), tensors=section),
        member("b", inputs=(ids(),)),
    ]
    done = composed(members, {"e": {"members": ["a", "b"]}})
    assert [arena.views[0].max_shape for arena in done.arenas] == [
        (512,),
        (256,),
        (128,),
        (64,),
        (32,),
        (16,),
    ]
    assert {arena.symbols for arena in done.arenas} == {("ids.1",)}
    assert {arena.masks for arena in done.arenas} == {(1,)}
    offsets = [arena.offset for arena in done.arenas]
    assert offsets == sorted(offsets)
    assert [(one.arena, one.source.member) for one in done.instances["cpu:0"]] == [
        (arena, name) for name in "ab" for arena in range(6)
    ]
    assert [binding.pad for binding in done.instances["cpu:0"][0].bindings] == [1, 0]
    models = {model.served.name: model for model in done.models}
    assert set(models) == {"e", "a", "b"}
    model = models["e"]
    assert model.symbols == ("ids.1",)
    assert [length.bounds for length in model.lengths] == [
        (16,),
        (32,),
        (64,),
        (128,),
        (256,),
        (512,),
    ]
    assert [length.served.arena for length in model.lengths] == [5, 4, 3, 2, 1, 0]
    assert {length.served.name for length in model.lengths} == {model.served.name}
    assert model.served.arena == 0
    assert [(one.tensor.name, one.is_optional) for one in model.inputs] == [
        ("ids", False),
        ("mask", True),
    ]


def test_a_mask_that_another_member_requires_is_required():
    mask = ids(name="mask")
    section = {"ids": {"pad": 0}, "mask": {"mask": "ids"}}
    members = [
        member("a", inputs=(ids(), mask), tensors=section),
        member("b", inputs=(mask,)),
    ]
    done = composed(members, {"e": {"members": ["a", "b"]}})
    (model,) = [model for model in done.models if model.served.name == "e"]
    assert not any(one.is_optional for one in model.inputs)


def test_the_budget_is_divided_and_long_rows_have_smaller_batches():
    done = composed([member("m", inputs=(ids(1 << 14),))], batch=64, budget=1 << 24)
    batches = [one.batch for one in done.instances["cpu:0"]]
    assert batches == sorted(batches)
    assert batches[0] < 64 == batches[-1]
    assert all(one.capacity >= 2 * batch for one, batch in zip(done.arenas, batches, strict=True))
    with pytest.raises(ConfigError, match=r"server.arena_bytes: .* are too few"):
        composed([member("m", inputs=(ids(1 << 20),))], budget=1 << 24)


def test_a_profile_needs_only_the_largest_class():
    done = composed([member("m", inputs=(ids(),))], largest_only=True)
    assert [arena.views[0].max_shape for arena in done.arenas] == [(512,)]
    assert len(done.instances["cpu:0"]) == 1
