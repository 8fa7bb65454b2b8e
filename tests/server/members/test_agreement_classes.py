"""The classes of an ensemble whose members know others, or order them differently."""

import pytest

from server.config import Config
from server.errors import ConfigError
from server.members.classes import MatchedClasses, class_problems, match_classes
from server.members.inspect import InspectedMember, read_labels
from workers.runtime.spec import ModelSignature, ModelSource, TensorSpec


def member(name, labels, what="logits", classes=None):
    section = {"model": {"recipe": "any"}, "output": what}
    config = Config.model_validate({"members": {name: section}}).members[name]
    output = TensorSpec("y", "FP32", (classes or len(labels),))
    signature = ModelSignature((TensorSpec("x", "FP32", (4,)),), (output,), 0)
    source = ModelSource(name, "onnx")
    return InspectedMember(name, config, source, signature, {"y": tuple(labels)}).output


def found(*members, own=""):
    assert list(class_problems("e", members, tuple(own))) == []
    return match_classes(members, tuple(own))


def test_nothing_is_mapped_where_all_are_the_same():
    assert found(member("a", "xyz"), member("b", "xyz")) == MatchedClasses(("x", "y", "z"))
    assert found(member("a", "", classes=3), member("b", "xyz")) == MatchedClasses(("x", "y", "z"))
    assert found(member("a", "xyz"), own="xyz") == MatchedClasses(("x", "y", "z"))
    assert found(member("a", "", classes=2), own="xy") == MatchedClasses(("x", "y"))
    assert found(member("a", "", classes=2)) == MatchedClasses()
    assert found(member("a", "xx"), member("b", "xx")) == MatchedClasses(("x", "x")), (
        "nothing to match"
    )


def test_the_union_is_in_the_order_of_first_appearance():
    classes = found(member("a", "xyz"), member("b", "wzy"), member("c", "v"))
    assert classes == MatchedClasses(
        tuple("xyzwv"), ((0, 1, 2, -1, -1), (-1, 2, 1, 0, -1), (-1, -1, -1, -1, 0))
    )


def test_the_ensembles_own_labels_order_add_and_leave_out():
    assert found(member("a", "xyz"), member("b", "zyx"), own="zx") == MatchedClasses(
        ("z", "x"), ((2, 0), (0, 2))
    )
    assert found(member("a", "xyz"), member("b", "xyz"), own="zyx").columns == ((2, 1, 0),) * 2


def test_values_may_be_reordered_but_none_can_be_missing():
    assert found(member("a", "xy", "values"), member("b", "yx", "values")).columns == (
        (0, 1),
        (1, 0),
    )
    members = [member("a", "xy", "values"), member("b", "y", "values")]
    (line,) = class_problems("e", members, ())
    assert line.startswith("ensembles.e: 'b' gives values and has none for 'x'")


@pytest.mark.parametrize(
    ("members", "own", "problem"),
    [
        (
            [member("a", "xy"), member("b", "yx"), member("c", "", classes=2)],
            "",
            "members.c.labels: are needed, because classes are matched by label in ensembles.e",
        ),
        ([member("a", "xyx"), member("b", "y")], "", "members.a.labels: 'x' is there twice"),
        ([member("a", "xy")], "yxy", "ensembles.e.labels: 'y' is there twice, name each class"),
        ([member("a", "xy")], "xabcd", "ensembles.e.labels: no member knows 'a', 'b', 'c' and 1"),
        ([member("a", "xy"), member("b", "z")], "yx", "labels: 'b' knows none of these classes"),
        ([member("a", "", classes=3)], "xy", "ensembles.e.labels: 2 labels for an output of shap"),
        (
            [member("a", "xy"), member("b", "", classes=3)],
            "",
            "ensembles.e: members disagree on the shape of their output: 'a' [2], 'b' [3]",
        ),
    ],
)
def test_classes_that_cannot_be_matched(members, own, problem):
    (line,) = class_problems("e", members, tuple(own))
    assert problem in line


def test_labels_are_read_without_what_editors_leave(tmp_path):
    path = tmp_path / "labels.txt"
    path.write_bytes(b"\xef\xbb\xbfgreat crane \r\n  dog\r\n")
    assert read_labels("here", path) == ("great crane", "dog")
    for broken in (tmp_path / "none", tmp_path):
        with pytest.raises(ConfigError, match=f"^here: {broken}: "):
            read_labels("here", broken)
