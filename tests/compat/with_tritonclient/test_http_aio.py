"""tritonclient.http.aio: the client for asyncio (aiohttp).

It always offers `Accept-Encoding: gzip, deflate` but unpacks nothing except answers to `infer`.
"""

import asyncio

import numpy as np
import pytest
import tritonclient.http.aio as api
from cases import BAD, SLOW_ROWS, UNSUPPORTED, Bad, Call, tiled
from reference import MEMBERS, agree, of_text
from triton_tensors import inputs, refused
from tritonclient import http
from tritonclient.utils import InferenceServerException

ROWS = slice(0, 7)

pytestmark = pytest.mark.anyio


@pytest.fixture
async def client(server):
    async with api.InferenceServerClient(server.http) as made:
        yield made


async def test_what_there_is(client):
    assert await client.is_server_live()
    assert await client.is_server_ready()
    assert await client.is_model_ready("digits")
    assert await client.is_model_ready("digits", "1")
    assert not await client.is_model_ready("nobody")
    assert (await client.get_server_metadata())["name"] == "ensembled"
    assert (await client.get_model_metadata("digits", "1"))["versions"] == ["1"]
    assert (await client.get_model_config("digits"))["ensemble"]["members"] == list(MEMBERS)
    index = await client.get_model_repository_index()
    assert {model["name"] for model in index} == {"digits", *MEMBERS}


async def test_statistics_count_exactly(client, digits):
    async def count():
        (model,) = (await client.get_inference_statistics("digits"))["model_stats"]
        return model["inference_count"], model["inference_stats"]["success"]["count"]

    rows, requests = await count()
    for _ in range(3):
        await client.infer("digits", inputs(http, digits.x[ROWS]))
    assert await count() == (rows + 21, requests + 3)
    everything = await client.get_inference_statistics()
    assert len(everything["model_stats"]) == 6


@pytest.mark.parametrize("binary_in", [True, False], ids=["binary-in", "json-in"])
@pytest.mark.parametrize("binary_out", [True, False], ids=["binary-out", "json-out"])
async def test_infer(client, digits, binary_in, binary_out):
    result = await client.infer(
        "digits",
        inputs(http, digits.x[ROWS], binary_data=binary_in),
        outputs=[http.InferRequestedOutput("output", binary_data=binary_out)],
        request_id="b-8",
    )
    agree(result.as_numpy("output"), digits.mean(ROWS))
    assert result.get_response()["id"] == "b-8"


async def test_infer_without_naming_outputs(client, digits):
    result = await client.infer("digits", inputs(http, digits.x), model_version="1")
    agree(result.as_numpy("output"), digits.mean(slice(None)))


async def test_classification(client, digits):
    wanted = http.InferRequestedOutput("output", class_count=1)
    result = await client.infer("digits", inputs(http, digits.x[ROWS]), outputs=[wanted])
    _, classes = of_text(result.as_numpy("output"))
    assert (classes[:, 0] == digits.mean(ROWS).argmax(1)).all()


@pytest.mark.parametrize("answer", [None, "gzip", "deflate"])
@pytest.mark.parametrize("request_", [None, "gzip", "deflate"])
async def test_compression(client, digits, request_, answer):
    result = await client.infer(
        "digits",
        inputs(http, digits.x),
        request_compression_algorithm=request_,
        response_compression_algorithm=answer,
    )
    agree(result.as_numpy("output"), digits.mean(slice(None)))


async def test_parameters(client, digits):
    result = await client.infer(
        "digits",
        inputs(http, digits.x[ROWS]),
        priority=2,
        timeout=60_000_000,
        parameters={"members": "mlp,attention"},
    )
    agree(result.as_numpy("output"), digits.mean(ROWS, ["mlp", "attention"]))


async def test_concurrency(client, digits):
    slices = [slice(i, i + 1 + i % 5) for i in range(100)]
    results = await asyncio.gather(
        *(client.infer("digits", inputs(http, digits.x[rows])) for rows in slices)
    )
    for result, rows in zip(results, slices, strict=True):
        agree(result.as_numpy("output"), digits.mean(rows))


async def test_a_cancelled_request_harms_nobody(client, digits):
    request = asyncio.create_task(client.infer("digits", inputs(http, tiled(digits.x, SLOW_ROWS))))
    await asyncio.sleep(0)  # it starts
    request.cancel()
    with pytest.raises(asyncio.CancelledError):
        await request
    result = await client.infer("digits", inputs(http, digits.x[ROWS]))
    agree(result.as_numpy("output"), digits.mean(ROWS))


@pytest.mark.parametrize("bad", BAD, ids=str)
async def test_refused(client, bad: Bad):
    with pytest.raises(InferenceServerException) as caught:
        await client.infer(**refused(http, bad))
    assert caught.value.status() == str(bad.http)
    assert bad.text in caught.value.message()


async def test_deadline(client, digits):
    with pytest.raises(InferenceServerException) as caught:
        await client.infer("digits", inputs(http, tiled(digits.x, SLOW_ROWS)), timeout=1)
    assert caught.value.status() == "504"


async def test_no_rows_at_all(client):
    with pytest.raises(InferenceServerException) as caught:
        await client.infer("digits", inputs(http, np.zeros((0, 64), np.float32)))
    assert caught.value.status() == "400"


@pytest.mark.parametrize("call", UNSUPPORTED, ids=str)
async def test_not_supported(client, call: Call):
    with pytest.raises(InferenceServerException) as caught:
        await getattr(client, call.method)(*call.arguments)
    assert caught.value.status() == "400"
    assert "not supported" in caught.value.message()
