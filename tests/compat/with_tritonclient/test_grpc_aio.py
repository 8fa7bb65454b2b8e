"""tritonclient.grpc.aio: the client for asyncio."""

import asyncio

import pytest
import tritonclient.grpc.aio as api
from cases import BAD, SLOW_ROWS, UNSUPPORTED, Bad, Call, tiled
from reference import MEMBERS, agree, of_text
from triton_tensors import inputs, refused
from tritonclient import grpc
from tritonclient.utils import InferenceServerException

ROWS = slice(0, 7)

pytestmark = pytest.mark.anyio


@pytest.fixture
async def client(server):
    async with api.InferenceServerClient(server.grpc) as made:
        yield made


async def test_what_there_is(client):
    assert await client.is_server_live()
    assert await client.is_server_ready()
    assert await client.is_model_ready("digits")
    assert await client.is_model_ready("digits", "1")
    assert (await client.get_server_metadata()).name == "ensembled"
    assert (await client.get_model_metadata("digits", "1")).versions == ["1"]
    assert (await client.get_model_config("digits")).config.name == "digits"
    index = await client.get_model_repository_index(as_json=True)
    assert {model["name"] for model in index["models"]} == {"digits", *MEMBERS}


async def test_statistics_count_exactly(client, digits):
    async def count():
        (model,) = (await client.get_inference_statistics("digits")).model_stats
        return model.inference_count, model.inference_stats.success.count

    rows, requests = await count()
    for _ in range(3):
        await client.infer("digits", inputs(grpc, digits.x[ROWS]))
    assert await count() == (rows + 21, requests + 3)
    everything = await client.get_inference_statistics()
    assert len(everything.model_stats) == 6


@pytest.mark.parametrize("algorithm", [None, "gzip", "deflate"])
async def test_infer(client, digits, algorithm):
    result = await client.infer(
        "digits",
        inputs(grpc, digits.x),
        request_id="b-8",
        compression_algorithm=algorithm,
    )
    agree(result.as_numpy("output"), digits.mean(slice(None)))
    assert result.get_response().id == "b-8"


async def test_classification(client, digits):
    wanted = grpc.InferRequestedOutput("output", class_count=1)
    result = await client.infer("digits", inputs(grpc, digits.x[ROWS]), outputs=[wanted])
    _, classes = of_text(result.as_numpy("output"))
    assert (classes[:, 0] == digits.mean(ROWS).argmax(1)).all()


async def test_parameters(client, digits):
    result = await client.infer(
        "digits",
        inputs(grpc, digits.x[ROWS]),
        priority=2,
        timeout=60_000_000,
        client_timeout=60.0,
        parameters={"members": "mlp,attention"},
    )
    agree(result.as_numpy("output"), digits.mean(ROWS, ["mlp", "attention"]))


async def test_concurrency(client, digits):
    slices = [slice(i, i + 1 + i % 5) for i in range(100)]
    results = await asyncio.gather(
        *(client.infer("digits", inputs(grpc, digits.x[rows])) for rows in slices)
    )
    for result, rows in zip(results, slices, strict=True):
        agree(result.as_numpy("output"), digits.mean(rows))


async def test_a_cancelled_request_harms_nobody(client, digits):
    request = asyncio.create_task(client.infer("digits", inputs(grpc, tiled(digits.x, SLOW_ROWS))))
    await asyncio.sleep(0)  # it starts
    request.cancel()
    with pytest.raises((asyncio.CancelledError, InferenceServerException)):
        await request
    result = await client.infer("digits", inputs(grpc, digits.x[ROWS]))
    agree(result.as_numpy("output"), digits.mean(ROWS))


@pytest.mark.parametrize("bad", BAD, ids=str)
async def test_refused(client, bad: Bad):
    with pytest.raises(InferenceServerException) as caught:
        await client.infer(**refused(grpc, bad))
    assert caught.value.status() == f"StatusCode.{bad.grpc}"
    assert bad.text in caught.value.message()


async def test_deadline(client, digits):
    with pytest.raises(InferenceServerException) as caught:
        await client.infer("digits", inputs(grpc, tiled(digits.x, SLOW_ROWS)), timeout=1)
    assert caught.value.status() == "StatusCode.DEADLINE_EXCEEDED"


@pytest.mark.parametrize("call", UNSUPPORTED, ids=str)
async def test_not_supported(client, call: Call):
    with pytest.raises(InferenceServerException) as caught:
        await getattr(client, call.method)(*call.arguments)
    assert caught.value.status() == "StatusCode.UNIMPLEMENTED"
    assert "not supported" in caught.value.message()
