"""kserve.InferenceGRPCClient, the gRPC client of KServe's Python package (asyncio)."""

import asyncio

import grpc
import numpy as np
import pytest
from cases import BAD, BEYOND_GRPC_DEFAULT_ROWS, SLOW_ROWS, Bad, tiled
from kserve import InferenceGRPCClient
from kserve.protocol.infer_type import RequestedOutput
from kserve_tensors import answer, refused, request
from reference import MEMBERS, agree, of_text

ROWS = slice(0, 7)

pytestmark = pytest.mark.anyio


@pytest.fixture
async def client(server):
    async with InferenceGRPCClient(server.grpc) as made:
        yield made


async def test_health(client):
    assert await client.is_server_live()
    assert await client.is_server_ready()


@pytest.mark.parametrize("model", ["digits", *MEMBERS])
async def test_model_is_ready(client, model):
    assert await client.is_model_ready(model)


async def test_readiness_of_an_unknown_model_is_an_error(client):
    with pytest.raises(grpc.RpcError, match="unknown model: 'nobody'") as caught:
        await client.is_model_ready("nobody")
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize("binary", [True, False], ids=["raw", "typed"])
async def test_infer(client, digits, binary):
    response = await client.infer(request(digits.x[ROWS], binary=binary, request_id="c-9"))
    agree(answer(response), digits.mean(ROWS))
    assert response.id == "c-9"
    assert response.model_name == "digits"
    assert response.model_version == "1"
    assert response.parameters["members"].string_param == ",".join(MEMBERS)
    assert response.parameters["degraded"].bool_param is False


async def test_version(client, digits):
    response = await client.infer(request(digits.x[ROWS], model_version="1"))
    agree(answer(response), digits.mean(ROWS))


async def test_every_other_output(client, digits):
    scores = digits.scores(ROWS)
    names = ["output", *scores, *(f"output.{name}" for name in MEMBERS), "member_mask"]
    outputs = [RequestedOutput(name) for name in names]
    response = await client.infer(request(digits.x[ROWS], request_outputs=outputs))
    assert [output.name for output in response.outputs] == names
    agree(answer(response), digits.mean(ROWS))
    for name, expected in scores.items():
        agree(answer(response, name), expected)
    for name in MEMBERS:
        agree(answer(response, f"output.{name}"), digits.probabilities[name][ROWS])
    assert answer(response, "member_mask").all()


async def test_members_are_models_and_the_ensemble_is_their_mean(client, digits):
    each = []
    for name in MEMBERS:
        each.append(answer(await client.infer(request(digits.x[ROWS], model=name))))
        agree(each[-1], digits.probabilities[name][ROWS])
    combined = await client.infer(request(digits.x[ROWS]))
    agree(answer(combined), np.mean(each, 0))


async def test_ensemble_reads_digits(client, digits):
    response = await client.infer(request(digits.x, binary=True))
    assert (answer(response).argmax(1) == digits.y).mean() > 0.95


async def test_classification(client, digits):
    wanted = [RequestedOutput("output", {"classification": 1})]
    response = await client.infer(request(digits.x[ROWS], request_outputs=wanted))
    _, classes = of_text(answer(response))
    assert (classes[:, 0] == digits.mean(ROWS).argmax(1)).all()


async def test_parameters(client, digits):
    parameters = {"members": "mlp,attention", "timeout": 60_000_000, "priority": 1}
    response = await client.infer(
        request(digits.x[ROWS], parameters=parameters), timeout=60.0, headers=(("x-trace", "1"),)
    )
    agree(answer(response), digits.mean(ROWS, ["mlp", "attention"]))


async def test_many_rows(client, digits):
    x = tiled(digits.x, BEYOND_GRPC_DEFAULT_ROWS)
    response = await client.infer(request(x, binary=True))
    agree(answer(response), tiled(digits.mean(slice(None)), len(x)))


async def test_concurrency(client, digits):
    slices = [slice(i, i + 1 + i % 5) for i in range(50)]
    responses = await asyncio.gather(*(client.infer(request(digits.x[rows])) for rows in slices))
    for response, rows in zip(responses, slices, strict=True):
        agree(answer(response), digits.mean(rows))


@pytest.mark.parametrize("binary", [True, False], ids=["raw", "typed"])
@pytest.mark.parametrize("bad", BAD, ids=str)
async def test_refused(client, bad: Bad, binary):
    with pytest.raises(grpc.RpcError) as caught:
        await client.infer(refused(bad, binary=binary))
    assert caught.value.code().name == bad.grpc
    assert bad.text in caught.value.details()


async def test_deadline(client, digits):
    asked = request(tiled(digits.x, SLOW_ROWS), binary=True, parameters={"timeout": 1})
    with pytest.raises(grpc.RpcError) as caught:
        await client.infer(asked)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_deadline_of_the_call(client, digits):
    with pytest.raises(grpc.RpcError) as caught:
        await client.infer(request(tiled(digits.x, SLOW_ROWS), binary=True), timeout=0.001)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    response = await client.infer(request(digits.x[ROWS]))
    agree(answer(response), digits.mean(ROWS))
