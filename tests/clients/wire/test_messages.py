import numpy as np
import pytest
from ensembled_client.wire import RawTensor, WireError
from ensembled_client.wire.messages import (
    DESCRIPTORS,
    METHODS,
    decode_response_message,
    message_class,
    parameter_values,
    request_message,
)
from google.protobuf import descriptor_pb2, descriptor_pool
from grpc_tools import protoc


def test_the_committed_descriptors_are_what_the_proto_compiles_to(tmp_path):
    compiled = tmp_path / "open_inference.binpb"
    source = DESCRIPTORS.with_suffix(".proto")
    arguments = [f"--proto_path={source.parent}", f"--descriptor_set_out={compiled}", source.name]
    assert protoc.main(["protoc", *arguments]) == 0
    read = descriptor_pb2.FileDescriptorSet.FromString
    assert read(DESCRIPTORS.read_bytes()) == read(compiled.read_bytes()), "run `make proto`"


def test_nothing_is_registered_in_the_default_pool():
    message_class("ModelInferRequest")
    with pytest.raises(KeyError):
        descriptor_pool.Default().FindMessageTypeByName("inference.ModelInferRequest")


def test_a_message_makes_the_round_trip():
    request = message_class("ModelInferRequest")(model_name="m", raw_input_contents=[b"\x01"])
    request.parameters["timeout"].int64_param = 5
    again = message_class("ModelInferRequest").FromString(request.SerializeToString())
    assert again == request
    assert again.parameters["timeout"].WhichOneof("parameter_choice") == "int64_param"


def test_a_request_of_raw_tensors():
    tensors = [RawTensor("x", "FP32", (1, 2), b"12345678"), RawTensor("t", "BYTES", (0,), b"")]
    message = request_message(
        "m",
        tensors,
        outputs={"output": 3, "variance": 0},
        parameters={"timeout": 5, "members": "a,b", "wanted": True},
    )
    assert [(one.name, one.datatype, list(one.shape)) for one in message.inputs] == [
        ("x", "FP32", [1, 2]),
        ("t", "BYTES", [0]),
    ]
    assert list(message.raw_input_contents) == [b"12345678", b""]
    assert [(one.name, parameter_values(one.parameters)) for one in message.outputs] == [
        ("output", {"classification": 3}),
        ("variance", {}),
    ]
    assert parameter_values(message.parameters) == {"timeout": 5, "members": "a,b", "wanted": True}
    assert not request_message("m", tensors, with_data=False).raw_input_contents


def test_a_response_of_raw_tensors():
    message = message_class("ModelInferResponse")(
        raw_output_contents=[np.float32([1, 2]).tobytes()]
    )
    with pytest.raises(WireError, match="0 outputs, but 1 raw contents"):
        decode_response_message(message)
    message.outputs.add(name="output", datatype="FP32", shape=[2])
    message.parameters["degraded"].bool_param = True
    message.parameters["nothing"].ClearField("bool_param")
    response = decode_response_message(message)
    assert response.outputs["output"].tolist() == [1, 2]
    assert response.parameters == {"degraded": True}


def test_an_unknown_message_is_a_key_error():
    with pytest.raises(KeyError):
        message_class("Nothing")


def test_the_methods_of_the_service():
    assert {"ModelInfer", "ModelStreamInfer", "RepositoryModelLoad"} <= METHODS
    assert len(METHODS) == 12
