"""Names of variable dimensions that the members of an ensemble share."""

from server.config import Config
from server.members.symbols import named_alike
from workers.runtime.spec import ModelSignature, TensorSpec


def signature(*inputs, outputs=()):
    return ModelSignature(
        tuple(TensorSpec(name, "INT64", (-1,), (9,), (symbol,)) for name, symbol in inputs),
        tuple(TensorSpec("y", "FP32", (-1,), (9,), (symbol,)) for symbol in outputs),
        0,
    )


def named(members, ensembles=None, **sections):
    config = Config.model_validate(
        {
            "members": {
                name: {"model": {"recipe": "r"}, "inputs": sections.get(name, {})}
                for name in members
            },
            "ensembles": {name: {"members": list(own)} for name, own in (ensembles or {}).items()},
        }
    )
    found = named_alike(config, members)
    return {
        name: [tensor.symbols[0] for tensor in (*one.inputs, *one.outputs)]
        for name, one in found.items()
    }


def test_dimensions_are_named_after_the_clients_inputs():
    a = signature(("ids", "seq"), ("mask", "seq"), outputs=("seq",))
    assert named({"a": a}, a={"ids": "tokens"}) == {"a": ["tokens.1", "tokens.1", "tokens.1"]}


def test_an_ensemble_ties_what_one_of_its_members_ties():
    a, b = signature(("ids", "s"), ("mask", "s")), signature(("ids", "p"), ("mask", "q"))
    assert named({"a": a, "b": b}, {"e": "ab"})["b"] == ["ids.1", "ids.1"]
    assert named({"a": a, "b": b})["b"] == ["ids.1", "mask.1"]
    assert named({"b": b, "a": a}, {"e": "ba"})["b"] == ["ids.1", "ids.1"]


def test_a_mask_is_as_large_as_what_it_masks():
    b = signature(("mask", "q"), ("ids", "p"))
    assert named({"b": b}, b={"mask": {"mask": "ids"}}) == {"b": ["mask.1", "mask.1"]}


def test_fixed_and_text_inputs():
    fixed = ModelSignature((TensorSpec("x", "FP32", (4,)),), (TensorSpec("y", "FP32", ()),), 0)
    text = TensorSpec("text", "BYTES", (2,), (), ("", "text.bytes"), 99)
    config = Config.model_validate(
        {"members": {name: {"model": {"recipe": "r"}} for name in ("a", "b")}}
    )
    signatures = {"a": fixed, "b": ModelSignature((text,), fixed.outputs, 0)}
    assert named_alike(config, signatures) == signatures
