"""The model repository, as KServe's gRPC service has it; its clients have no method for it."""

import grpc
import pytest
from kserve.protocol.grpc import grpc_predict_v2_pb2 as messages
from kserve.protocol.grpc.grpc_predict_v2_pb2_grpc import GRPCInferenceServiceStub


def test_unload_and_load(changeable):
    with grpc.insecure_channel(changeable.grpc) as channel:
        stub = GRPCInferenceServiceStub(channel)
        unloaded = stub.RepositoryModelUnload(
            messages.RepositoryModelUnloadRequest(model_name="both")
        )
        assert (unloaded.model_name, unloaded.isUnloaded) == ("both", True)
        with pytest.raises(grpc.RpcError, match="unknown model: 'both'"):
            stub.ModelReady(messages.ModelReadyRequest(name="both"))
        loaded = stub.RepositoryModelLoad(messages.RepositoryModelLoadRequest(model_name="both"))
        assert (loaded.model_name, loaded.isLoaded) == ("both", True)
        assert stub.ModelReady(messages.ModelReadyRequest(name="both")).ready


def test_a_model_that_is_not_there(changeable):
    with grpc.insecure_channel(changeable.grpc) as channel:
        stub = GRPCInferenceServiceStub(channel)
        with pytest.raises(grpc.RpcError, match="there is no model 'nobody'") as caught:
            stub.RepositoryModelLoad(messages.RepositoryModelLoadRequest(model_name="nobody"))
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
