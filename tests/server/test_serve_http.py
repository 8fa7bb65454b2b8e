"""The HTTP API as its description says it is, and the paths around inference."""

import json
from email.utils import parsedate_to_datetime

import numpy as np
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from schemathesis import checks
from serving import configuration, fake, running

pytestmark = pytest.mark.process

ROWS = [[1.5, -2.0], [0.0, 8.0]]
#: The statuses above 499 that a healthy server gives: an impossible deadline or quorum.
NAMED = {503, 504}
CHECKS = [
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
    checks.unsupported_method,
]


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    config = configuration({"a": fake(0), "b": fake(6)}, max_request_bytes=200_000)
    with running(config, tmp_path_factory.mktemp("http")) as server:
        yield server


@pytest.fixture
def server(shared):
    """The server, and after every test a canary."""
    yield shared
    assert shared.predict("all", ROWS).values.tolist() == [[4.5, 1], [3, 11]]
    assert "Traceback" not in shared.stderr


# -- the description ----------------------------------------------------------------------------


def operations(document):
    return [
        (path, method)
        for path, methods in document["paths"].items()
        for method in methods
        if method != "parameters"
    ]


def test_every_path_is_described(server):
    document = server.client.get("/openapi.json").json()
    names = [
        document["paths"][path][method]["operationId"] for path, method in operations(document)
    ]
    assert len(set(names)) == len(names)
    infer = document["paths"]["/v2/models/{model}/versions/{version}/infer"]["post"]
    values = {one["name"]: one["schema"].get("enum") for one in infer["parameters"]}
    assert set(values["model"]) == {"all", "a", "b"}
    assert values["version"] == ["1"]
    assert {
        "/v2",
        "/v2/health/live",
        "/v2/health/ready",
        "/v2/models/stats",
        "/v2/models/{model}",
        "/v2/models/{model}/ready",
        "/v2/models/{model}/config",
        "/v2/models/{model}/stats",
        "/v2/models/{model}/infer",
        "/v2/models/{model}/versions/{version}/infer",
        "/v2/repository/index",
        "/v2/repository/models/{model}/load",
        "/v2/repository/models/{model}/unload",
        "/v2/repository/reload",
    } <= set(document["paths"])


def test_no_page_fetches_scripts_from_elsewhere(server):
    for path in ("/docs", "/docs/oauth2-redirect", "/redoc"):
        assert server.client.get(path).status_code == 404


def test_every_response_has_a_date_and_is_what_its_type_says_and_is_not_kept(server):
    x = np.ones((1, 2), np.float32)
    answers = [server.predict("all", x), server.predict("all", x, binary=False)]
    found = [server.client.get(path) for path in ("/v2", "/v2/health/live", "/v2/models/none")]
    refused = server.client.post("/v2/models/all/infer", b"{")
    for response in (*answers, *found, refused):
        assert parsedate_to_datetime(response.headers["date"]).tzinfo is not None
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["cache-control"] == "no-store"
        assert "server" not in response.headers


def test_the_description_holds_for_whatever_it_allows(server):
    document = server.client.get("/openapi.json").json()
    schema = schemathesis.openapi.from_dict(document)
    for found in schema.get_all_operations():
        check_operation(found.ok(), server)


def check_operation(operation, server):
    @seed(1)
    @settings(
        max_examples=40,
        deadline=None,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy())
    def check(case):
        response = case.call(base_url=server.url, timeout=30)
        assert response.status_code < 500 or response.status_code in NAMED, response.text
        case.validate_response(response, checks=CHECKS)
        if response.status_code >= 400 and "ready" not in case.path:
            assert set(response.json()) == {"error"}

    check()


def test_answers_are_as_described(server):
    tensor = {"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}
    wanted = [{"name": name} for name in ("output", "variance", "member_mask", "output.a")]
    body = {"inputs": [tensor], "id": "7", "outputs": wanted}
    document = server.client.get("/openapi.json").json()
    operation = schemathesis.openapi.from_dict(document)["/v2/models/{model}/infer"]["POST"]
    for parameters in ({}, {"binary_data_output": True}, {"members": "a"}, {"members": "c"}):
        case = operation.Case(
            path_parameters={"model": "all"},
            body={**body, "parameters": parameters},
            media_type="application/json",
        )
        response = case.call(base_url=server.url)
        case.validate_response(response, checks=CHECKS[:3])
        assert response.status_code == (400 if parameters == {"members": "c"} else 200)


# -- the repository -----------------------------------------------------------------------------

INDEX = "/v2/repository/index"


@pytest.mark.parametrize(
    "content",
    [b"", b"{}", b'{"ready": true}', b'{"ready":false,"x":1}', b" ", b"null", b'{"ready": null}'],
)
def test_the_index_lists_the_models(server, content):
    response = server.client.http.post(INDEX, content=content)
    assert response.status_code == 200
    entries = {entry.pop("name"): entry for entry in response.json()}
    assert set(entries) == {"all", "a", "b"}
    assert entries["all"] == {"version": "1", "state": "READY", "reason": ""}


@pytest.mark.parametrize(
    ("content", "status"),
    [(b"[]", 400), (b"{", 400), (b'{"ready": 1}', 400), (b"[" * 10_000, 400), (b" " * 70_000, 413)],
)
def test_requests_for_the_index_that_are_wrong(server, content, status):
    response = server.client.http.post(INDEX, content=content)
    assert response.status_code == status
    assert set(response.json()) == {"error"}


@pytest.mark.parametrize("action", ["load", "unload"])
def test_models_are_neither_loaded_nor_unloaded_unless_the_operator_permits_it(server, action):
    for model in ("all", "none"):
        answer = server.client.post(f"/v2/repository/models/{model}/{action}", b"{}")
        assert answer.status == 403
        assert "server.repository.control is none" in answer.error


# -- what is not there --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v2/systemsharedmemory/status"),
        ("POST", "/v2/systemsharedmemory/region/a/register"),
        ("GET", "/v2/cudasharedmemory/region/a/status"),
        ("POST", "/v2/cudasharedmemory/unregister"),
        ("GET", "/v2/trace/setting"),
        ("POST", "/v2/models/all/trace/setting"),
        ("GET", "/v2/logging"),
        ("POST", "/v2/models/all/generate"),
    ],
)
def test_extensions_that_are_not_there(server, method, path):
    response = server.client.http.request(method, path)
    assert response.status_code == 400
    assert response.json()["error"].startswith("not supported: ")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/v2/models/all/infer", "POST"),
        ("PUT", "/v2/models/all/versions/1/infer", "POST"),
        ("POST", "/v2/health/live", "GET"),
        ("DELETE", "/v2/models/all", "GET"),
        ("GET", INDEX, "POST"),
        ("OPTIONS", "/v2", "GET"),
        ("HEAD", "/v2/models/all/infer", "POST"),
    ],
)
def test_methods_that_are_not_there(server, method, path, allowed):
    response = server.client.http.request(method, path)
    assert response.status_code == 405
    assert response.headers["Allow"] == allowed
    if method != "HEAD":
        assert set(response.json()) == {"error"}


def test_a_path_that_is_not_there_is_named(server):
    response = server.client.http.post("/v2/nothing/here")
    assert response.status_code == 404
    assert response.json() == {"error": "Not Found: POST /v2/nothing/here"}


@pytest.mark.parametrize(
    "path", ["/v2", "/v2/health/ready", "/v2/models/all", "/v2/models/all/config"]
)
def test_heads_and_slashes_at_the_end(server, path):
    whole = server.client.get(path)
    head = server.client.http.head(path)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["Content-Length"] == str(len(whole.content))
    assert server.client.get(f"{path}/").json() == whole.json()


def test_inference_with_a_slash_at_the_end(server):
    tensor = {"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}
    answer = server.client.post("/v2/models/all/infer/", json.dumps({"inputs": [tensor]}).encode())
    assert answer.values.tolist() == [[4, 5]]
