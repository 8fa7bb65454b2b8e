"""kserve.InferenceRESTClient, the REST client of KServe's Python package (httpx, asyncio)."""

import asyncio

import httpx
import numpy as np
import pytest
from cases import BAD, SLOW_ROWS, Bad, tiled
from kserve import InferenceRESTClient, InferInput, InferRequest, RESTConfig
from kserve.protocol.infer_type import RequestedOutput
from kserve_tensors import answer, refused, request
from reference import MEMBERS, agree, of_text

ROWS = slice(0, 7)

pytestmark = pytest.mark.anyio


@pytest.fixture
async def client():
    async with InferenceRESTClient(RESTConfig(protocol="v2", retries=0)) as made:
        yield made


async def test_health(client, server):
    assert await client.is_server_live(server.url)
    assert await client.is_server_ready(server.url)


@pytest.mark.parametrize("model", ["digits", *MEMBERS])
async def test_model_is_ready(client, server, model):
    assert await client.is_model_ready(server.url, model)


async def test_unknown_models_are_not_ready(client, server):
    assert not await client.is_model_ready(server.url, "nobody")


@pytest.mark.parametrize("binary_in", [True, False], ids=["binary-in", "json-in"])
@pytest.mark.parametrize("binary_out", [True, False], ids=["binary-out", "json-out"])
async def test_infer(client, server, digits, binary_in, binary_out):
    asked = request(
        digits.x[ROWS],
        binary=binary_in,
        request_id="c-9",
        parameters={"binary_data_output": binary_out},
    )
    response = await client.infer(server.url, asked, model_name="digits")
    agree(answer(response), digits.mean(ROWS))
    assert response.id == "c-9"
    assert response.model_name == "digits"
    assert response.parameters == {"members": ",".join(MEMBERS), "degraded": False, "generation": 1}


async def test_infer_with_a_plain_dictionary(client, server, digits):
    x = digits.x[ROWS]
    tensor = {"name": "x", "shape": x.shape, "datatype": "FP32", "data": x.tolist()}
    response = await client.infer(server.url, {"inputs": [tensor]}, model_name="digits")
    agree(answer(response), digits.mean(ROWS))


async def test_response_headers(client, server, digits):
    headers = {}
    await client.infer(
        server.url,
        request(digits.x[ROWS], parameters={"binary_data_output": True}),
        model_name="digits",
        headers={"X-Trace": "1"},
        response_headers=headers,
    )
    assert int(headers["inference-header-content-length"]) > 0


@pytest.mark.parametrize("binary", [True, False])
async def test_every_other_output(client, server, digits, binary):
    scores = digits.scores(ROWS)
    names = ["output", *scores, *(f"output.{name}" for name in MEMBERS), "member_mask"]
    outputs = [RequestedOutput(name, {"binary_data": binary}) for name in names]
    asked = request(digits.x[ROWS], request_outputs=outputs)
    response = await client.infer(server.url, asked, model_name="digits")
    assert [output.name for output in response.outputs] == names
    agree(answer(response), digits.mean(ROWS))
    for name, expected in scores.items():
        agree(answer(response, name), expected)
    for name in MEMBERS:
        agree(answer(response, f"output.{name}"), digits.probabilities[name][ROWS])
    assert answer(response, "member_mask").all()


async def test_members_are_models_and_the_ensemble_is_their_mean(client, server, digits):
    each = []
    for name in MEMBERS:
        asked = request(digits.x[ROWS], model=name)
        each.append(answer(await client.infer(server.url, asked, model_name=name)))
        agree(each[-1], digits.probabilities[name][ROWS])
    combined = await client.infer(server.url, request(digits.x[ROWS]), model_name="digits")
    agree(answer(combined), np.mean(each, 0))


async def test_ensemble_reads_digits(client, server, digits):
    response = await client.infer(server.url, request(digits.x, binary=True), model_name="digits")
    assert (answer(response).argmax(1) == digits.y).mean() > 0.95


@pytest.mark.parametrize("binary", [True, False])
async def test_classification(client, server, digits, binary):
    wanted = [RequestedOutput("output", {"classification": 1, "binary_data": binary})]
    asked = request(digits.x[ROWS], request_outputs=wanted)
    response = await client.infer(server.url, asked, model_name="digits")
    _, classes = of_text(answer(response))
    assert (classes[:, 0] == digits.mean(ROWS).argmax(1)).all()


async def test_parameters(client, server, digits):
    parameters = {"members": "mlp,attention", "timeout": 60_000_000, "priority": 1}
    asked = request(digits.x[ROWS], parameters=parameters)
    response = await client.infer(server.url, asked, model_name="digits")
    agree(answer(response), digits.mean(ROWS, ["mlp", "attention"]))


async def test_concurrency(client, server, digits):
    slices = [slice(i, i + 1 + i % 5) for i in range(50)]
    responses = await asyncio.gather(
        *(
            client.infer(server.url, request(digits.x[rows], binary=True), model_name="digits")
            for rows in slices
        )
    )
    for response, rows in zip(responses, slices, strict=True):
        agree(answer(response), digits.mean(rows))


@pytest.mark.parametrize("bad", [bad for bad in BAD if not bad.version], ids=str)
async def test_refused(client, server, bad: Bad):
    with pytest.raises(httpx.HTTPStatusError) as caught:
        await client.infer(server.url, refused(bad), model_name=bad.model)
    assert caught.value.response.status_code == bad.http
    assert bad.text in str(caught.value)


async def test_deadline(client, server, digits):
    asked = request(tiled(digits.x, SLOW_ROWS), binary=True, parameters={"timeout": 1})
    with pytest.raises(httpx.HTTPStatusError) as caught:
        await client.infer(server.url, asked, model_name="digits")
    assert caught.value.response.status_code == 504


async def test_the_older_protocol_is_not_spoken(server, digits):
    async with InferenceRESTClient(RESTConfig(protocol="v1", retries=0)) as client:
        with pytest.raises(httpx.HTTPStatusError, match="404"):
            await client.infer(server.url, {"instances": [[0.0]]}, model_name="digits")
        with pytest.raises(httpx.HTTPStatusError, match="404"):
            await client.explain(server.url, "digits", {"instances": [[0.0]]})


async def test_two_inputs(client, server, digits):
    asked = InferRequest("digits", [InferInput(name, [1, 64], "FP32", [0.0] * 64) for name in "xy"])
    with pytest.raises(httpx.HTTPStatusError) as caught:
        await client.infer(server.url, asked, model_name="digits")
    assert caught.value.response.status_code == 400
    assert "y" in str(caught.value)
