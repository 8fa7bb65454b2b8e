"""The routes of the repository, over a supervisor that is played."""

import base64
import json
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import httpx
import pytest
from repositories import PlayedControl, files_below, repository

from server.control import ChangeResult, LoadRequest, PlaceRequest, ReloadRequest, UnloadRequest
from server.errors import QueueFull
from server.http_api.api import make_api
from server.http_api.body import BodyReader

LIMIT = 4 << 20


@pytest.fixture
def threads():
    with ThreadPoolExecutor(1) as executor:
        yield executor


@pytest.fixture
def anyio_backend():
    return "asyncio"


@pytest.fixture
def send(threads, tmp_path):
    """A function that sends a request to the routes, and returns the response."""

    async def send(control, path, body=b"", **permitted):
        inference = SimpleNamespace(
            endpoints={}, repository=repository(control, tmp_path, **permitted)
        )
        infer = SimpleNamespace(bodies=BodyReader(LIMIT, threads))
        transport = httpx.ASGITransport(make_api(inference, infer, None, threads))
        async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
            content = body if isinstance(body, bytes) else json.dumps(body)
            return await client.post(f"/v2/repository/{path}", content=content)

    return send


pytestmark = pytest.mark.anyio
LOADED = {"generation": 2, "changes": ["member m: loaded"]}


async def test_load_as_tritonclient_asks_for_it(send):
    control = PlayedControl()
    content = bytes(range(256)) * 6000  # more than is decoded at once
    files = {"file:1/model.onnx": content, "file:1/empty": b""}
    parameters = {name: base64.b64encode(content).decode() for name, content in files.items()}
    body = {"parameters": {"config": '{"max_batch_size": 8}', **parameters}}
    response = await send(control, "models/a-b/load", body)
    assert (response.status_code, response.json()) == (200, LOADED)
    (request,) = control.asked
    assert (request.model, request.config) == ("a-b", '{"max_batch_size":8}')
    assert files_below(request.directory) == {"1/model.onnx": content, "1/empty": b""}


@pytest.mark.parametrize("body", [b"", b"{}", b"null", b'{"parameters": {}}', b'{"more": 1}'])
async def test_load_without_anything_of_its_own(send, body):
    control = PlayedControl()
    assert (await send(control, "models/m/load", body)).json() == LOADED
    assert control.asked == [LoadRequest("m")]


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b"{", "the JSON of the request is not valid"),
        (b"[]", "the JSON of the request is not valid"),
        ({"parameters": {"config": {}}}, "parameters.config: Input should be a valid string"),
        ({"parameters": {"file:1/m": 1}}, "parameters.file:1/m: Input should be a valid string"),
        ({"parameters": {"file:1/m": "a"}}, "file:1/m is not base64"),
        ({"parameters": {"file:1/m": "ab=c" * 2}}, "file:1/m is not base64"),
        ({"parameters": {"file:1/m": "YQ==YQ=="}}, "something behind its end"),
        ({"parameters": {"file:1/m": "é"}}, "file:1/m is not base64"),
        ({"parameters": {"file:1/../m": ""}}, "should be file:VERSION/NAME"),
        ({"parameters": {"unload_dependents": "x"}}, "unknown parameter 'unload_dependents'"),
    ],
)
async def test_loads_that_are_wrong(send, body, error):
    control = PlayedControl()
    response = await send(control, "models/m/load", body)
    assert response.status_code == 400
    assert error in response.json()["error"]
    assert control.asked == []


async def test_a_body_is_limited(send):
    body = {"parameters": {"file:1/m": "A" * LIMIT}}
    assert (await send(PlayedControl(), "models/m/load", body)).status_code == 413
    assert (await send(PlayedControl(), "models/m/unload", b" " * 70_000)).status_code == 413


async def test_what_is_not_permitted(send):
    control, body = PlayedControl(), {"parameters": {"config": "{}"}}
    for action in ("load", "unload"):
        response = await send(control, f"models/m/{action}", allows_control=False)
        assert response.status_code == 403
        assert "server.repository.control" in response.json()["error"]
    response = await send(control, "models/m/load", body, allows_overrides=False)
    assert response.status_code == 403
    assert "server.repository.overrides" in response.json()["error"]
    assert control.asked == []


async def test_unload(send):
    control = PlayedControl()
    for body in (b"", {"parameters": {"unload_dependents": True}}):
        assert (await send(control, "models/m/unload", body)).json() == LOADED
    assert control.asked == [UnloadRequest("m"), UnloadRequest("m", True)]
    response = await send(control, "models/m/unload", {"parameters": {"unload_dependents": "yes"}})
    assert response.status_code == 400
    assert "parameters.unload_dependents" in response.json()["error"]


ALLOCATION = {"members": ["a", "b"], "devices": ["cpu:0"], "matrix": [[8, 0]]}


async def test_placement(send):
    control = PlayedControl(ChangeResult(3, ("cpu:0: b leaves",)))
    document = {**ALLOCATION, "matrix": [[8, 1]], "solver": "exact"}
    response = await send(control, "placement", document)
    assert response.json() == {"generation": 3, "changes": ["cpu:0: b leaves"]}
    await send(control, "placement?dry_run=true", document)
    first, second = control.asked
    matrix = json.dumps({**ALLOCATION, "matrix": [[8, 1]]})
    assert first == PlaceRequest(matrix, "by hand", dry_run=False)
    assert second == PlaceRequest(matrix, "by hand", dry_run=True)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({}, "the allocation: member 'b' has no instance"),
        ({"matrix": [[8, -1]]}, "matrix.0.1: Input should be greater than or equal to 0"),
        ({"devices": "cpu:0"}, "devices: Input should be a valid"),
        ({"devices": ["d" * 40_000], "matrix": [[1, 1]]}, "the allocation has 40"),
    ],
)
async def test_placements_that_are_wrong(send, changes, problem):
    control = PlayedControl()
    response = await send(control, "placement", ALLOCATION | changes)
    assert response.status_code == 400
    assert problem in response.json()["error"]
    assert control.asked == []


async def test_reload(send):
    control = PlayedControl()
    for body in (b"", {"path": "/c.yaml", "dry_run": True}):
        response = await send(control, "reload", body, allows_control=False, allows_overrides=False)
        assert response.json() == LOADED
    assert control.asked == [ReloadRequest(), ReloadRequest("/c.yaml", True)]
    assert (await send(control, "reload", {"dry_run": 1})).status_code == 400


@pytest.mark.parametrize(
    ("result", "status"),
    [
        (ChangeResult(1, error="members.m.model: there is no file", is_wrong=True), 400),
        (ChangeResult(1, error="worker cpu:0: there is no file"), 409),
        (QueueFull("there is no file"), 429),
    ],
)
async def test_changes_that_are_refused(send, result, status):
    for path in ("reload", "models/m/load", "models/m/unload"):
        response = await send(PlayedControl(result), path)
        assert response.status_code == status
        assert "there is no file" in response.json()["error"]
