"""Ids of requests, in answers and in the log; and which requests have a line there."""

import json

import grpc
import numpy as np
import pytest
from ensembled_client.wire.messages import SERVICE, message_class
from grpc_calls import connected, infer_request
from serving import configuration, fake, running, wait_for

pytestmark = pytest.mark.process

POISON = 666.0
FAILS = {"a": fake(1, fail="raise", fail_value=POISON)}
HEADER = "x-request-id"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    config = configuration(FAILS, log_format="json", access_log="all")
    with running(config, tmp_path_factory.mktemp("log")) as server:
        yield server


def body(x, **fields):
    x = np.asarray(x, np.float32)
    tensor = {"name": "x", "shape": x.shape, "datatype": "FP32", "data": x.ravel().tolist()}
    return json.dumps({"inputs": [tensor], **fields}).encode()


def post(server, x, model="a", name=None, **fields):
    headers = {} if name is None else {HEADER: name}
    return server.client.post(f"/v2/models/{model}/infer", body(x, **fields), headers)


def lines(server, request_id):
    """The lines about a request, once there is one."""

    def told():
        text = server.stderr
        return [
            line
            for line in map(json.loads, text[: text.rfind("\n") + 1].splitlines())
            if line.get("request_id") == request_id
        ]

    return wait_for(told, f"a line about {request_id}")


@pytest.mark.parametrize(
    ("name", "id", "echoed"),
    [
        ("mine-1", "", "mine-1"),
        ("mine-2", "own-2", "mine-2"),
        (None, "own-3", "own-3"),
        ("not one", "own-4", "own-4"),
        ("x" * 129, "", None),
        (None, "not\none", None),
        (None, "", None),
    ],
)
def test_answers_have_the_id_of_their_request(server, name, id, echoed):
    answer = post(server, [[1, 2]], name=name, **({"id": id} if id else {}))
    np.testing.assert_array_equal(answer.values, [[2, 3]])
    assert answer.headers.get(HEADER) == echoed
    assert answer.json.get("id", "") == id  # as the protocol has it
    if echoed:
        (line,) = lines(server, echoed)
        assert (line["level"], line["message"], line["status"]) == ("INFO", "answered", 200)
        assert (line["protocol"], line["model"]) == ("http", "a")
        assert line["client"].startswith("127.0.0.1:")
        assert line["elapsed_ms"] > 0


@pytest.mark.parametrize(
    ("path", "sent", "status"),
    [
        ("/v2/models/a/infer", body([[POISON, 0]]), 500),
        ("/v2/models/a/infer", body([[1, 2, 3]]), 400),
        ("/v2/models/a/infer", b"{", 400),
        ("/v2/models/nobody/infer", body([[1, 2]]), 404),
        ("/v2/models/nobody/load", b"", 404),
        ("/v2/repository/index", b"{}", 200),
    ],
)
def test_errors_and_all_the_rest_have_it_too(server, path, sent, status):
    name = f"e-{status}-{len(path)}-{len(sent)}"
    response = server.client.http.post(path, content=sent, headers={HEADER: name})
    assert response.status_code == status
    assert response.headers.get_list(HEADER) == [name]
    if path.endswith("infer"):
        told = lines(server, name)[-1]
        level = "WARNING" if status >= 500 else "INFO"
        assert (told["status"], told["level"], told["protocol"]) == (status, level, "http")
        assert response.json()["error"] in told["message"]
    else:
        post(server, [[1, 2]], name=f"after-{name}")
        assert lines(server, f"after-{name}")
        assert f'"{name}"' not in server.stderr


def test_calls_end_with_their_id(server):
    with connected(server.grpc) as channel:
        method = channel.method("ModelInfer")
        given = ((HEADER, "call-1"), ("other", "x"))
        _, call = method.with_call(infer_request("a", [[1, 2]]), metadata=given, timeout=60)
        assert dict(call.trailing_metadata())[HEADER] == "call-1"
        (line,) = lines(server, "call-1")
        assert (line["protocol"], line["model"], line["status"]) == ("grpc", "a", 200)
        for name, asked, status in (
            ("call-2", infer_request("a", [[POISON, 0]]), 500),
            ("call-3", infer_request("nobody\n", [[1, 2]]), 404),
        ):
            with pytest.raises(grpc.RpcError) as info:
                method(asked, metadata=((HEADER, name),), timeout=60)
            assert dict(info.value.trailing_metadata())[HEADER] == name
            (line,) = lines(server, name)
            assert (line["status"], line["model"]) == (status, asked.model_name)
            assert info.value.details() in line["message"]
        stream = channel.raw.stream_stream(
            f"/{SERVICE}/ModelStreamInfer",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=message_class("ModelStreamInferResponse").FromString,
        )
        asked = [infer_request("a", [[n, 0]], request_id="own-5") for n in (1, POISON)]
        call = stream(iter(asked), metadata=((HEADER, "call-4"),), timeout=60)
        assert [bool(answer.error_message) for answer in call] == [False, True]
        assert dict(call.trailing_metadata())[HEADER] == "call-4"
        told = wait_for(lambda: len(told := lines(server, "call-4")) > 1 and told, "two lines")
        assert sorted(line["status"] for line in told) == [200, 500]


def test_by_default_those_that_failed_have_a_line(serve):
    server = serve(configuration(FAILS))
    assert post(server, [[1, 2]], name="fine").status == 200
    assert post(server, [[1, 2, 3]], name="wrong").status == 400
    assert post(server, [[POISON, 0]], name="failed").status == 500
    for _ in range(100):
        assert post(server, [[POISON, 0]], name="again").status == 500
    server.stop()
    told = [line for line in server.stderr.splitlines() if "request_id=" in line]
    (line,) = [line for line in told if "request_id=again" not in line]
    assert 20 <= len(told) < 100  # a flood is a few lines
    assert " WARNING ensembled front-end: failed: member 'a' failed" in line
    assert " status=500 " in line
    assert " request_id=failed" in line
