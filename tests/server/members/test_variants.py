"""Which variants may run, and what is wrong with those that take or give something else."""

import msgspec
import pytest
from inspected import member

from server.config import Config
from server.errors import ConfigError
from server.members.inspect import inspect_members
from server.members.probes import Probes
from server.members.variants import allowed_variants
from workers.runtime.spec import DeviceSpec, ModelSignature, TensorSpec

CPU = DeviceSpec("cpu:0", "cpu-1", 1 << 30, (0,))
GPU = DeviceSpec("cuda:0", "NVIDIA H200", 1 << 30)
Y = TensorSpec("y", "FP32", (3,))


def signature(x="FP32", y=Y):
    return ModelSignature((TensorSpec("x", x, (4,)),), (y,), 100)


def configuration(tmp_path, **section):
    for name in ("m.onnx", "q.onnx"):
        (tmp_path / name).write_bytes(b"any")
    variants = {
        "int8": {"model": "q.onnx", "runs_on": "cpu", "disagreement": 0.01},
        "tiny": {"model": "q.onnx", "disagreement": 0.3},
    }
    document = {"members": {"m": {"model": "m.onnx", "variants": variants, **section}}}
    return Config.model_validate(document, context={"directory": tmp_path})


def inspected(config, found):
    probes = Probes(
        inspect_models=lambda sources: [
            found if source.path.endswith("q.onnx") else signature() for source in sources
        ]
    )
    return inspect_members(config, probes)


def test_allowed_variants_are_forms_of_their_member(tmp_path):
    config = configuration(tmp_path, may_differ=0.01)
    smaller = msgspec.structs.replace(signature(), parameter_bytes=25)
    (one,) = inspected(config, smaller)
    assert [form.name for form in one.forms] == ["m", "m/int8"]
    variant = one.variants[0]
    assert variant.source.path == str(tmp_path / "q.onnx")
    assert variant.source.member == "m"
    assert variant.signature.parameter_bytes == 25
    assert (variant.may_run_on(CPU), variant.may_run_on(GPU)) == (True, False)
    assert one.may_run_on(GPU)


def test_without_permission_there_is_none_and_the_log_says_so(tmp_path, caplog):
    config = configuration(tmp_path)
    assert list(allowed_variants("m", config.members["m"])) == []
    assert "members.m.variants.int8 is not used" in caplog.text
    assert "its disagreement is 0.01, may_differ is 0" in caplog.text
    (one,) = inspected(config, signature("FP16"))  # which nobody looks at
    assert one.variants == ()


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (
            signature("FP16"),
            "its inputs are x FP16 [4], those of the member's model are x FP32 [4]",
        ),
        (
            signature(y=TensorSpec("y", "FP32", (2,))),
            "its outputs are y FP32 [2], those of the member's model are y FP32 [3]",
        ),
    ],
)
def test_a_variant_takes_and_gives_what_its_member_does(tmp_path, found, said):
    with pytest.raises(ConfigError) as caught:
        inspected(configuration(tmp_path, may_differ=0.01), found)
    (problem,) = caught.value.problems
    assert problem.startswith("members.m.variants.int8.model: ")
    assert said in problem


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({"may_differ": 2}, "may_differ"),
        ({"variants": {"int8": {"model": "q.onnx"}}}, "disagreement"),
        ({"variants": {"int8": {"model": "q.h5", "disagreement": 0}}}, "variants.int8.model"),
        ({"variants": {"a/b": {"model": "q.onnx", "disagreement": 0}}}, "the name 'a/b'"),
        (
            {
                "model": {"versions": {1: "m.onnx"}},
                "variants": {"b": {"model": "q.onnx", "disagreement": 0}},
            },
            "give them with each version",
        ),
    ],
)
def test_wrong_sections_are_refused(tmp_path, section, said):
    with pytest.raises(ValueError, match=r"members\.m") as caught:
        configuration(tmp_path, **section)
    assert said in str(caught.value)


def test_a_member_without_variants_has_one_form():
    one = member("m")
    assert one.forms == (one,)
