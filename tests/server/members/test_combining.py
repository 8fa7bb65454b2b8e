"""Which outputs an ensemble combines, by which rules; what is asked about and what is refused."""

import pytest
from inspected import X, composed
from msgspec.structs import replace

from server.config import Config
from server.errors import ConfigError
from server.members.combining import planned_rules, shared_outputs
from server.members.ensembles import RuleFinding
from server.members.inspect import InspectedMember
from workers.runtime.spec import ModelSignature, ModelSource, OutputSpec, TensorSpec

TENSORS = {
    "logits": TensorSpec("logits", "FP32", (3,)),
    "embedding": TensorSpec("embedding", "FP32", (8,)),
    "age": TensorSpec("age", "FP64", ()),
}
OUTPUTS = {"logits": {"name": "class", "as": "logits"}, "embedding": {}, "age": {}}


def member(name, outputs=None, tensors=None, labels=()):
    outputs = OUTPUTS if outputs is None else outputs
    section = {"model": {"recipe": "any"}, "outputs": outputs}
    config = Config.model_validate({"members": {name: section}}).members[name]
    given = tuple({**TENSORS, **(tensors or {})}[own] for own in outputs)
    signature = ModelSignature(X, given, 0)
    found = {"logits": tuple(labels)} if labels else {}
    return InspectedMember(
        name, config, ModelSource(name, "onnx", f"{name}.onnx"), signature, found
    )


def planned(rule, *members, **section):
    sections = {"e": {"members": [one.name for one in members], "rule": rule, **section}}
    any_members = {one.name: {"model": {"recipe": "any"}} for one in members}
    config = Config.model_validate({"members": any_members, "ensembles": sections})
    rules = planned_rules(config.ensembles["e"], shared_outputs(members))
    return {one.combined[0].name: one.rule for one in rules}


def ensemble_of(rule, *members, findings=None, **section):
    sections = {"e": {"members": [one.name for one in members], "rule": rule, **section}}
    return composed([*members], sections, findings=findings)


def problem_of(rule, *members, **section):
    with pytest.raises(ConfigError) as caught:
        ensemble_of(rule, *members, **section)
    (line,) = caught.value.problems
    return line


def test_a_plain_rule_combines_what_it_can():
    a, b = member("a"), member("b")
    assert planned("mean", a, b) == {"class": "mean", "embedding": "mean", "age": "mean"}
    assert planned("vote", a, b) == {"class": "vote", "embedding": "vote"}, "age has no candidates"
    assert planned("geometric_mean", a, b) == {"class": "geometric_mean"}
    wider = member("b", tensors={"embedding": TensorSpec("embedding", "FP32", (16,))})
    assert planned("mean", a, wider) == {"class": "mean", "age": "mean"}
    assert planned("mean", a, member("b", {"logits": OUTPUTS["logits"]})) == {"class": "mean"}
    assert planned("my.rules:best", a, b) == {"class": "my.rules:best"}, "the main output only"


def test_rules_by_output():
    a, b = member("a"), member("b")
    assert planned({"class": "vote", "embedding": "none"}, a, b) == {"class": "vote"}
    assert planned({"age": "median", "class": "mean"}, a, b) == {"class": "mean", "age": "median"}
    assert planned({"age": "max"}, a, b) == {"age": "max"}


def test_specs_of_ensembles_and_instances():
    wider = member("b", tensors={"embedding": TensorSpec("embedding", "FP32", (16,))})
    result = ensemble_of({"class": "mean", "age": "max"}, member("a", labels="xyz"), wider)
    spec, a, _ = result.arenas[0].ensembles
    assert [(one.tensor.name, one.areas) for one in spec.predictions] == [
        ("class", (0, 1)),
        ("age", (3, 5)),
        ("embedding", (2, -1)),
        ("embedding", (-1, 4)),
    ]
    assert [(one.rule, one.inputs) for one in spec.rules] == [("mean", (0,)), ("max", (1,))]
    assert [(one.name, one.datatype) for one in spec.outputs] == [
        ("class", "FP32"),
        ("age", "FP64"),
    ]
    assert [one.name for one in a.outputs] == ["class", "embedding", "age"]
    ensemble, alone, _ = result.models
    assert list(ensemble.regular_outputs) == ["class", "age"]
    assert [name for name in ensemble.extra_outputs if name.startswith("embedding")] == [
        "embedding.a",
        "embedding.b",
    ]
    assert "class" not in ensemble.extra_outputs, "its own output of this name comes first"
    assert ensemble.outputs["output"] == ensemble.outputs["class"]
    assert ensemble.outputs["output.a"].number == 0
    assert (ensemble.labels, alone.labels) == (("x", "y", "z"),) * 2
    (instance, _) = result.instances["cpu:0"]
    assert instance.outputs == (
        OutputSpec(0, "logits"),
        OutputSpec(2, "values"),
        OutputSpec(3, "values"),
    )


def test_what_outputs_must_agree_on():
    a, b = member("a"), member("b")
    assert "no member has an output 'clas', did you mean 'class'?" in problem_of(
        {"clas": "mean"}, a, b
    )
    lone = member("b", {"logits": OUTPUTS["logits"]})
    assert "members disagree on their outputs: only a has 'age'" in problem_of(
        {"age": "mean"}, a, lone
    )
    wider = member("b", tensors={"age": TensorSpec("age", "FP64", (2,))})
    assert problem_of({"age": "mean"}, a, wider) == (
        "ensembles.e: members disagree on the shape of their output 'age': 'a' [], 'b' [2]"
    )
    assert "vote needs an output per class" in problem_of({"age": "vote"}, a, b)


def test_outputs_that_were_found_and_their_names():
    members = member("a"), member("b")
    rule = {"class": "mean", "age": "my.rules:spread"}
    found = tuple(TensorSpec(name, "FP64", ()) for name in ("mean", "std"))
    spec = (
        ensemble_of(rule, *members, findings={("e", "age"): RuleFinding(found)})
        .arenas[0]
        .ensembles[0]
    )
    assert [one.name for one in spec.outputs] == ["class", "mean", "std"]
    for name, reason in (
        ("class", "two rules yield an output 'class'"),
        ("output", "only the main"),
    ):
        clash = (replace(found[0], name=name), found[1])
        with pytest.raises(ConfigError, match=reason):
            ensemble_of(rule, *members, findings={("e", "age"): RuleFinding(clash)})


def test_rules_that_take_several_outputs_together():
    tensors = {
        "boxes": TensorSpec("boxes", "FP32", (5, 4)),
        "scores": TensorSpec("scores", "FP32", (5,)),
        "classes": TensorSpec("classes", "FP32", (5,)),
    }
    members = [member(name, dict.fromkeys((*tensors, "embedding"), {}), tensors) for name in "ab"]
    for rule in ("weighted_boxes", {"boxes": "weighted_boxes", "embedding": "none"}):
        spec = ensemble_of(rule, *members).arenas[0].ensembles[0]
        assert [(one.rule, one.inputs) for one in spec.rules] == [("weighted_boxes", (0, 1, 2))]
        assert [one.name for one in spec.outputs] == [*tensors, "count"]
    line = problem_of("weighted_boxes", member("c", {"age": {}}))
    assert "weighted_boxes combines the outputs boxes, scores, classes of the members" in line


def mapping(axis=None, kind="logits", shape=(5, 4, 4), labels=()):
    outputs = {"logits": {"as": kind, **({} if axis is None else {"class_axis": axis})}}
    return member("a", outputs, {"logits": TensorSpec("logits", "FP32", shape)}, labels)


def test_the_axis_of_the_classes_is_asked_for():
    assert problem_of("mean", mapping()) == (
        "members.a.outputs.logits: which axis of ['n', 5, 4, 4] holds the classes? set class_axis, "
        "for example 1 for ['n', 5] or -1 for the last"
    )
    for axis in (4, 5, 9, -4):
        line = problem_of("mean", mapping(axis, labels="abcde"))
        assert f"class_axis {axis} is none of the 4 axes of ['n', 5, 4, 4]" in line
    assert "6 labels for an output of shape [5, 4, 4]" in problem_of(
        "mean", mapping(1, labels="abcdef")
    )
    result = ensemble_of("mean", mapping(1, labels="abcde"))
    spec = result.arenas[0].ensembles[0]
    assert (spec.main.class_axis, spec.score.shape) == (-3, (4, 4))
    assert result.models[0].labels == tuple("abcde")
    assert result.models[0].outputs["class"].tensor.shape == (4, 4)
    assert result.models[0].outputs["entropy"].tensor.shape == (4, 4)


@pytest.mark.parametrize("kind", ["binary", "binary_logits"])
def test_one_column_is_two_classes(kind):
    column = TensorSpec("logits", "FP32", (1,))
    bits = member("a", {"logits": {"as": kind}}, {"logits": column}, ("no", "yes"))
    two = TensorSpec("logits", "FP32", (2,))
    both = member("b", {"logits": {"as": "logits"}}, {"logits": two}, ("yes", "no"))
    spec = ensemble_of("mean", bits, both).arenas[0].ensembles[0]
    assert spec.main.columns == ((0, 1), (1, 0))
    wrong = member("a", {"logits": {"as": kind}})
    assert f"{kind} is one number per row, the model gives FP32 [3]" in problem_of("mean", wrong)
