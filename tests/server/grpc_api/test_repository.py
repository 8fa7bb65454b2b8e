"""Loads and unloads over gRPC, over a supervisor that is played."""

import asyncio
from types import SimpleNamespace

import pytest
from ensembled_client.wire.messages import message_class
from repositories import PlayedControl, files_below, repository

from server.control import ChangeResult, LoadRequest, UnloadRequest
from server.errors import ChangeFailed, Forbidden, InvalidRequest
from server.grpc_api.repository import change_handlers

Load, Unload = (message_class(f"RepositoryModel{one}Request") for one in ("Load", "Unload"))


class PlayedCall:
    """A call whose client waits, or not."""

    def __init__(self):
        self.on_cancelled = None
        self.response = self.error = None
        self.is_released = False

    def succeed(self, response):
        self.response = response

    def fail(self, error):
        self.error = error

    def release(self):
        self.is_released = True


def call(control, tmp_path, request, *, cancels=False, **permitted):
    """Call the method of a request; return its call when it is over."""

    async def run():
        inference = SimpleNamespace(repository=repository(control, tmp_path, **permitted))
        name = request.DESCRIPTOR.name.removesuffix("Request")
        change_handlers(inference)[name](unary, request.SerializeToString())
        if cancels:
            unary.on_cancelled()
        await asyncio.gather(*asyncio.all_tasks() - {asyncio.current_task()})

    unary = PlayedCall()
    asyncio.run(run())
    assert unary.is_released
    return unary


def load_request(**parameters):
    request = Load(model_name="m")
    for name, value in parameters.items():
        field = {str: "string_param", bytes: "bytes_param", bool: "bool_param"}[type(value)]
        setattr(request.parameters[name], field, value)
    return request


def test_load_as_tritonclient_asks_for_it(tmp_path):
    control = PlayedControl()
    request = load_request(config='{"a": 1}', **{"file:1/model.onnx": b"\0weights"})
    unary = call(control, tmp_path, request)
    (asked,) = control.asked
    assert (asked.model, asked.config) == ("m", '{"a":1}')
    assert files_below(asked.directory) == {"1/model.onnx": b"\0weights"}
    assert message_class("RepositoryModelLoadResponse").FromString(unary.response).isLoaded


def test_load_and_unload_as_kserve_asks_for_them(tmp_path):
    control = PlayedControl()
    for request, flag in ((Load(), "isLoaded"), (Unload(), "isUnloaded")):
        request.repository_name = "m"  # where KServe's message has the model's name
        unary = call(control, tmp_path, request)
        name = request.DESCRIPTOR.name.replace("Request", "Response")
        response = message_class(name).FromString(unary.response)
        assert (response.model_name, getattr(response, flag)) == ("m", True)
    assert control.asked == [LoadRequest("m"), UnloadRequest("m")]


def test_unload(tmp_path):
    control = PlayedControl()
    request = Unload(model_name="m")
    request.parameters["unload_dependents"].bool_param = True
    call(control, tmp_path, request)
    assert control.asked == [UnloadRequest("m", True)]


@pytest.mark.parametrize(
    ("request_", "error"),
    [
        (load_request(config=b"{}"), "parameter 'config' should be a string_param"),
        (load_request(**{"file:1/m": "text"}), "'file:1/m' should be a bytes_param"),
        (load_request(other=b""), "unknown parameter 'other'"),
        (load_request(unload_dependents=True), "'unload_dependents' should be a bytes_param"),
        (load_request(config="{"), "config is not JSON"),
    ],
)
def test_loads_that_are_wrong(tmp_path, request_, error):
    control = PlayedControl()
    unary = call(control, tmp_path, request_)
    assert isinstance(unary.error, InvalidRequest)
    assert error in unary.error.message
    assert control.asked == []


def test_unloads_that_are_wrong(tmp_path):
    control = PlayedControl()
    for name, error in (
        ("unload_dependents", "'unload_dependents' should be a bool_param"),
        ("other", "unknown parameter 'other'"),
    ):
        request = Unload(model_name="m")
        request.parameters[name].string_param = "x"
        unary = call(control, tmp_path, request)
        assert isinstance(unary.error, InvalidRequest)
        assert error in unary.error.message
    assert control.asked == []


def test_changes_that_are_refused(tmp_path):
    unary = call(PlayedControl(ChangeResult(1, error="no room")), tmp_path, Load(model_name="m"))
    assert isinstance(unary.error, ChangeFailed)
    unary = call(PlayedControl(), tmp_path, Load(model_name="m"), allows_control=False)
    assert isinstance(unary.error, Forbidden)


def test_a_change_whose_client_has_gone_is_made(tmp_path):
    control = PlayedControl()
    call(control, tmp_path, Load(model_name="m"), cancels=True)
    assert control.asked == [LoadRequest("m")]
