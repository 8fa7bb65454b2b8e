import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.config.text_format import TextFormatError, parse

DENSENET = """
# A comment { [ "
name: "densenet_onnx"
platform: "onnxruntime_onnx"
max_batch_size : 1
input [
  {
    name: "data_0"  # another one
    data_type: TYPE_FP32
    format: FORMAT_NCHW
    dims: [ 3, 224, -1 ]
  },
]
output { name: 'fc6_1' data_type: TYPE_FP32, dims: 1000; reshape { shape: [ 1000, 1, 1 ] } }
output: < name: "fc6_2" >
instance_group [ { count: 2 kind: KIND_GPU gpus: [ 0 ] }, { kind: KIND_CPU } ]
dynamic_batching { preferred_batch_size: [ 4, 8 ] max_queue_delay_microseconds: 0x64 }
parameters: { key: "LIMIT", value: { string_value: "a" "b" } }
optimization { cuda { graphs: true } share: 1.5f rate: -1e-3 octal: 010 }
"""


def test_a_configuration():
    assert parse(DENSENET) == {
        "name": "densenet_onnx",
        "platform": "onnxruntime_onnx",
        "max_batch_size": 1,
        "input": [
            {
                "name": "data_0",
                "data_type": "TYPE_FP32",
                "format": "FORMAT_NCHW",
                "dims": [3, 224, -1],
            }
        ],
        "output": [
            {
                "name": "fc6_1",
                "data_type": "TYPE_FP32",
                "dims": 1000,
                "reshape": {"shape": [1000, 1, 1]},
            },
            {"name": "fc6_2"},
        ],
        "instance_group": [
            {"count": 2, "kind": "KIND_GPU", "gpus": [0]},
            {"kind": "KIND_CPU"},
        ],
        "dynamic_batching": {
            "preferred_batch_size": [4, 8],
            "max_queue_delay_microseconds": 100,
        },
        "parameters": {"key": "LIMIT", "value": {"string_value": "ab"}},
        "optimization": {
            "cuda": {"graphs": True},
            "share": 1.5,
            "rate": -0.001,
            "octal": 8,
        },
    }


def test_an_empty_text():
    assert parse("  # nothing\n") == {}


def test_extensions():
    assert parse("[a.b/c.D] { x: 1 }") == {"a.b/c.D": {"x": 1}}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (r'"a\"b\'\\"', "a\"b'\\"),
        (r"'\n\t\x41\101'", "\n\tAA"),
        (r'"\303\251\xc3\xa9é\u00e9\U0001F600"', "éééé\U0001f600"),
        (r'"a#b{" "c"', "a#b{c"),
    ],
)
def test_strings(text, value):
    assert parse(f"a: {text}") == {"a": value}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: {", "line 1: expected the name of a field, not the end"),
        ("\n\na 3", "line 3: expected ':' or '{', not '3'"),
        ('a: "x\n"', "line 1: did not expect '\"'"),
        ("a: [1 2]", "line 1: expected ',' or ']', not '2'"),
        ("a: [[1]]", "line 1: expected a value, not '['"),
        ("a: }", "line 1: expected a value, not '}'"),
        ("a: < }", "line 1: expected the name of a field, not '}'"),
        (r'a: "\xff"', "line 1: a string is not text"),
        (r'a: "\uD800"', "line 1: a string is not text"),
        (r'a: "\UFFFFFFFF"', "line 1: a string is not text"),
        ("a {" * 100, "line 1: is nested too deeply"),
        ("a: $", "line 1: did not expect '$'"),
        ("[a: 1", "line 1: expected ']', not ':'"),
    ],
)
def test_mistakes(text, expected):
    with pytest.raises(TextFormatError) as caught:
        parse(text)
    assert str(caught.value) == expected


@given(st.text(st.characters(exclude_categories=["Cs", "Cc"])))
def test_any_text_survives(text):
    assert parse(f"a: {json.dumps(text, ensure_ascii=False)}") == {"a": text}


@given(st.text("ab:1{}[]<>,;\"'\\#\n. "))
def test_nothing_else_is_raised(text):
    with suppress(TextFormatError):
        parse(text)
