from pathlib import Path

import pytest

from server.config.triton import TritonError, is_ensemble, triton_section

ONNX = {
    "name": "net",
    "platform": "onnxruntime_onnx",
    "max_batch_size": 8,
    "input": [{"name": "x", "data_type": "TYPE_FP32", "format": "FORMAT_NCHW", "dims": [3, 4]}],
    "output": {"name": "y", "data_type": "TYPE_FP32", "dims": 5, "label_filename": "labels.txt"},
}


def test_an_onnx_model_describes_itself():
    found = triton_section(ONNX, Path("/models/net"))
    assert found.section == {
        "batch_size": 8,
        "outputs": {"y": {"labels": "/models/net/labels.txt"}},
    }
    assert (found.versions, found.unread) == ({}, ())
    assert triton_section(ONNX).section["outputs"] == {"y": {"labels": "labels.txt"}}


def test_a_torchscript_model_has_its_inputs_described():
    found = triton_section(
        {
            "backend": "pytorch",
            "max_batch_size": "4096",
            "input": [
                {"name": "ids__0", "data_type": "TYPE_INT64", "dims": ["-1"]},
                {"name": "text__1", "data_type": "TYPE_STRING", "dims": [1]},
            ],
            "output": [{"name": "p__0"}, {"name": "hidden__1"}],
        }
    )
    assert found.section == {
        "batch_size": 1024,
        "inputs": {
            "ids__0": {"datatype": "INT64", "shape": [-1]},
            "text__1": {"datatype": "BYTES", "shape": [1]},
        },
        "outputs": {"0": {"name": "p__0"}, "1": {"name": "hidden__1"}},
    }


def test_without_batches_the_first_size_is_the_batch():
    config = {
        "platform": "pytorch_libtorch",
        "max_batch_size": 0,
        "input": [{"name": "x__0", "data_type": "TYPE_FP32", "dims": [-1, 4]}],
    }
    found = triton_section(config)
    assert found.section == {"inputs": {"x__0": {"datatype": "FP32", "shape": [4]}}}
    assert found.unread == (
        "max_batch_size: 0 (models are served in batches: the first of dims is the batch)",
    )


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ({"all": {}}, "all"),
        ({"latest": {"num_versions": 2}}, {"latest": 2}),
        ({"latest": {}}, {"latest": 1}),
        ({"specific": {"versions": [1, 3]}}, {"specific": ["1", "3"]}),
        ({"specific": {"versions": 3}}, {"specific": ["3"]}),
    ],
)
def test_versions(policy, expected):
    config = {**ONNX, "version_policy": policy, "default_model_filename": "net.onnx"}
    assert triton_section(config).versions == {"policy": expected, "file": "net.onnx"}


def test_what_has_no_meaning_is_named():
    config = {
        **ONNX,
        "input": [{"name": "x", "reshape": {}}, {"name": "z", "reshape": {}, "optional": True}],
        "instance_group": [{"count": 2}],
        "dynamic_batching": {},
        "parameters": {},
    }
    assert triton_section(config).unread == (
        "input.reshape",
        "input.optional",
        "instance_group (the allocation says what runs where, and how often)",
        "dynamic_batching (batches need no configuration)",
        "parameters",
    )


def test_ensembles():
    assert is_ensemble({"platform": "ensemble"})
    assert is_ensemble({"ensemble_scheduling": {"step": []}})
    assert not is_ensemble(ONNX)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"platform": "tensorrt_plan"}, "platform: 'tensorrt_plan' is not served here, only"),
        ({"backend": "python"}, "backend: 'python' is not served here"),
        ({"max_batch_size": "many"}, "max_batch_size: should be a whole number, not 'many'"),
        ({"input": "x"}, "input: should be a message with name, data_type and dims"),
        ({"output": {"dims": 1}}, "output: has no name"),
        ({"version_policy": {}}, "version_policy: should be one of all, latest and specific"),
        ({"version_policy": {"newest": 1}}, "version_policy: should be one of"),
        (
            {"backend": "pytorch", "input": {"name": "x", "dims": [1]}},
            "input x: data_type: should be TYPE_FP32 or the like",
        ),
        (
            {
                "backend": "pytorch",
                "input": {"name": "x", "data_type": "TYPE_FP32", "dims": ["n"]},
            },
            "input x: dims: should be a whole number, not 'n'",
        ),
    ],
)
def test_mistakes(config, expected):
    with pytest.raises(TritonError) as caught:
        triton_section(config)
    assert str(caught.value).startswith(expected)
