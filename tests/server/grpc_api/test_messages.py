from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool
from grpc_tools import protoc

from server.grpc_api.messages import DESCRIPTORS, METHODS, message_class

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("committed", [DESCRIPTORS, ROOT / "clients/ensembled_client"])
def test_the_committed_descriptors_are_what_the_proto_compiles_to(tmp_path, committed):
    compiled = tmp_path / "open_inference.binpb"
    source = DESCRIPTORS.with_suffix(".proto")
    arguments = [f"--proto_path={source.parent}", f"--descriptor_set_out={compiled}", source.name]
    assert protoc.main(["protoc", *arguments]) == 0
    if committed.is_dir():
        committed /= DESCRIPTORS.name
    read = descriptor_pb2.FileDescriptorSet.FromString
    assert read(committed.read_bytes()) == read(compiled.read_bytes()), "run `make proto`"


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


def test_an_unknown_message_is_a_key_error():
    with pytest.raises(KeyError):
        message_class("Nothing")


def test_the_methods_of_the_service():
    assert {"ModelInfer", "ModelStreamInfer", "RepositoryModelLoad"} <= METHODS
    assert len(METHODS) == 12
