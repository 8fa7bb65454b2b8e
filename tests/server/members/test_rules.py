import pytest
from inspected import meaning as meaning_of

from server.config import Config
from server.members.combining import combining_problems
from server.members.rules import meta_output, meta_problems
from workers.runtime.spec import ModelSignature, TensorSpec


def ensemble(rule, count=3, **section):
    names = [f"m{i}" for i in range(count)]
    members = {name: {"model": {"recipe": "any"}} for name in names}
    sections = {"e": {"members": names, "rule": rule, **section}}
    return Config.model_validate({"members": members, "ensembles": sections}).ensembles["e"]


def output(*shape, datatype="FP32"):
    return TensorSpec("y", datatype, shape)


def signature(*inputs, answer=None):
    return ModelSignature(inputs, (answer or output(3),), 0)


@pytest.mark.parametrize(
    ("rule", "shape", "meaning", "problem"),
    [
        ("mean", (), "values", None),
        ("median", (2, 3), "values", None),
        ("medoid", (), "values", None),
        ("my.rules:best", (), "values", None),
        ("vote", (3,), "values", None),
        ("rank_average", (3,), "values", None),
        ("geometric_mean", (3,), "logits", None),
        ("geometric_mean", (3,), "class", None),
        ("vote", (), "values", "vote needs an output per class"),
        ("rank_average", (), "values", "rank_average needs an output per class"),
        ("geometric_mean", (3,), "values", "needs members whose output is logits or probabilities"),
    ],
)
def test_what_rules_need(rule, shape, meaning, problem):
    given = output(*shape) if meaning != "class" else output(datatype="INT64")
    section = {"classes": 3} if meaning == "class" else {}
    members = [meaning_of(name, meaning, given, **section) for name in ("m0", "m1", "m2")]
    lines = list(combining_problems("e", ensemble(rule), members, ()))
    assert len(lines) == (problem is not None)
    for line in lines:
        assert line.startswith("ensembles.e.rule: ")
        assert problem in line


@pytest.mark.parametrize("shape", [(6,), (2, 3)])
@pytest.mark.parametrize("datatype", ["FP16", "FP32", "FP64"])
def test_meta_models_that_fit(shape, datatype):
    given = signature(TensorSpec("x", datatype, shape))
    assert list(meta_problems("e", 2, output(3), given)) == []


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        (signature(output(5)), "takes y FP32 [5], not one float input [6] or [2, 3] per row"),
        (signature(output(3, 2)), "not one float input [6] or [2, 3] per row"),
        (signature(output(6, datatype="INT64")), "takes y INT64 [6], not one float"),
        (signature(output(3), output(3)), "takes y FP32 [3], y FP32 [3], not one float"),
        (signature(output(6), answer=output(datatype="BOOL")), "output is BOOL, not numbers"),
    ],
)
def test_meta_models_that_do_not_fit(given, problem):
    (line,) = meta_problems("e", 2, output(3), given)
    assert line.startswith("ensembles.e.meta: ")
    assert problem in line


def test_of_scalars_there_is_one_shape():
    (line,) = meta_problems("e", 2, output(), signature(output(3)))
    assert line.endswith("not one float input [2] per row")


@pytest.mark.parametrize(
    ("datatype", "wanted"),
    [("FP16", "FP32"), ("FP32", "FP32"), ("INT8", "FP32"), ("INT64", "FP64"), ("FP64", "FP64")],
)
def test_the_answer_has_a_type_that_is_wide_enough(datatype, wanted):
    answer = output(4, 2, datatype=datatype)
    assert meta_output("e", signature(output(6), answer=answer)) == TensorSpec("e", wanted, (4, 2))
