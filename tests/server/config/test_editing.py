"""A member's entry is added to a configuration whose other lines stay as they are."""

import pytest
import yaml

from server.config.editing import EditError, with_member

ENTRY = ["new:", "  model:", "    sklearn: m.skops", "  # why"]
NEW = {"model": {"sklearn": "m.skops"}}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# only a comment\n",
        "members:\n",
        "members:\n  a: {model: a.onnx}  # kept\n",
        "members:  # all of them\n    a:\n        model: a.onnx\n\n# about ensembles\nensembles:\n"
        "    all: {members: [a]}\n",
        "server: {http_port: 1}\nmembers:\n\n  # the first\n  a:\n    model: a.onnx\n  # no more\n"
        "devices: []\n",
        "ensembles:\n  all: {members: [a]}\n",
        "members:\n  a:\n    model: a.onnx",
    ],
    ids=range(8),
)
def test_nothing_else_changes(text):
    changed = with_member(text, "new", ENTRY)
    document = yaml.safe_load(changed)
    before = yaml.safe_load(text) or {}
    assert document.pop("members") == (before.pop("members", None) or {}) | {"new": NEW}
    assert document == before
    lines = iter(changed.splitlines())
    assert all(line in lines for line in text.splitlines())


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("members: {a: {model: a.onnx}}\n", "not a block of lines"),
        ("members:\n  new: {model: a.onnx}\n", "a member 'new' already"),
        ("'members':\n  a: {model: a.onnx}\n", "not a block of lines"),
        ("members:\n  - a\n", "not a block of lines"),
    ],
)
def test_what_lines_can_not_be_added_to_is_left_alone(text, why):
    with pytest.raises((EditError, yaml.YAMLError), match=why):
        with_member(text, "new", ENTRY)
