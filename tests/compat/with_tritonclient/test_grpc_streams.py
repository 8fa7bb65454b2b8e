"""Streams of tritonclient: `start_stream`/`async_stream_infer`, and `stream_infer` of asyncio.

A stream answers every request once, an error too, and carries on after one.
"""

import queue

import pytest
from cases import BAD, SLOW_ROWS, tiled
from reference import agree
from triton_tensors import inputs, refused
from tritonclient import grpc
from tritonclient.grpc import aio
from tritonclient.utils import InferenceServerException

ROWS = slice(0, 7)
SLICES = {str(i): slice(i, i + 1 + i % 5) for i in range(50)}


class Stream:
    """A stream of the synchronous client, and what came back on it."""

    def __init__(self, address, **options):
        self.client = grpc.InferenceServerClient(address)
        self.answers = queue.SimpleQueue()
        self.client.start_stream(
            lambda result, error: self.answers.put((result, error)), stream_timeout=60, **options
        )

    def send(self, x, name="", **options):
        self.client.async_stream_infer("digits", inputs(grpc, x), request_id=name, **options)

    def next(self):
        return self.answers.get(timeout=30)


@pytest.fixture
def stream(server):
    made = Stream(server.grpc)
    yield made
    made.client.close()


def check_all(stream, digits):
    """Send all slices at once; every one must be answered."""
    for name, rows in SLICES.items():
        stream.send(digits.x[rows], name)
    seen = set()
    for _ in SLICES:
        result, error = stream.next()
        assert error is None
        name = result.get_response().id
        agree(result.as_numpy("output"), digits.mean(SLICES[name]))
        seen.add(name)
    assert seen == set(SLICES)


def test_every_request_is_answered(stream, digits):
    check_all(stream, digits)
    stream.client.stop_stream()
    assert stream.answers.empty()


def test_stop_waits_for_the_answers(stream, digits):
    stream.send(tiled(digits.x, SLOW_ROWS), "large")
    stream.client.stop_stream()
    result, error = stream.answers.get_nowait()
    assert error is None
    assert result.get_response().id == "large"


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_compressed(server, digits, algorithm):
    stream = Stream(server.grpc, compression_algorithm=algorithm)
    check_all(stream, digits)
    stream.client.close()


def test_parameters(stream, digits):
    stream.send(
        digits.x[ROWS],
        parameters={"members": "deep,cnn"},
        outputs=[grpc.InferRequestedOutput("output"), grpc.InferRequestedOutput("entropy")],
        enable_empty_final_response=True,
        timeout=60_000_000,
        priority=1,
    )
    result, error = stream.next()
    assert error is None
    agree(result.as_numpy("output"), digits.mean(ROWS, ["deep", "cnn"]))
    assert result.as_numpy("entropy").shape == (7,)


@pytest.mark.parametrize("bad", BAD, ids=str)
def test_a_refused_request_does_not_end_the_stream(stream, digits, bad):
    stream.client.async_stream_infer(**refused(grpc, bad))
    result, error = stream.next()
    assert result is None
    assert isinstance(error, InferenceServerException)
    assert bad.text in error.message()
    check_all(stream, digits)


def test_deadline(stream, digits):
    stream.send(tiled(digits.x, SLOW_ROWS), timeout=1)
    result, error = stream.next()
    assert result is None
    assert error.message()
    check_all(stream, digits)


def test_a_cancelled_stream_harms_nobody(server, stream, digits):
    stream.send(tiled(digits.x, SLOW_ROWS))
    stream.client.stop_stream(cancel_requests=True)
    another = Stream(server.grpc)
    check_all(another, digits)
    another.client.close()


def test_a_stream_that_times_out(server, digits):
    stream = Stream(server.grpc)
    stream.client.stop_stream()
    stream.client.start_stream(
        lambda result, error: stream.answers.put((result, error)), stream_timeout=0.05
    )
    result, error = stream.next()
    assert result is None
    assert error.status() == "StatusCode.DEADLINE_EXCEEDED"
    stream.client.close()


@pytest.mark.anyio
async def test_asyncio(server, digits):
    async def requests():
        for name, rows in SLICES.items():
            yield {
                "model_name": "digits",
                "inputs": inputs(grpc, digits.x[rows]),
                "request_id": name,
            }

    async with aio.InferenceServerClient(server.grpc) as client:
        seen = set()
        async for result, error in client.stream_infer(requests(), stream_timeout=60):
            assert error is None
            name = result.get_response().id
            agree(result.as_numpy("output"), digits.mean(SLICES[name]))
            seen.add(name)
    assert seen == set(SLICES)


@pytest.mark.anyio
async def test_asyncio_errors(server, digits):
    async def requests():
        for bad in BAD:
            yield refused(grpc, bad)
        yield {"model_name": "digits", "inputs": inputs(grpc, digits.x[ROWS])}

    async with aio.InferenceServerClient(server.grpc) as client:
        answers = [answer async for answer in client.stream_infer(requests())]
    errors = [error.message() for _, error in answers if error is not None]
    assert len(errors) == len(BAD)
    assert all(any(bad.text in error for error in errors) for bad in BAD)
    ((result, _),) = [answer for answer in answers if answer[1] is None]
    agree(result.as_numpy("output"), digits.mean(ROWS))


@pytest.mark.anyio
async def test_asyncio_cancelled(server, digits):
    async def requests():
        for _ in range(5):
            yield {"model_name": "digits", "inputs": inputs(grpc, tiled(digits.x, SLOW_ROWS))}

    async with aio.InferenceServerClient(server.grpc) as client:
        answers = client.stream_infer(requests())
        await anext(answers)
        answers.cancel()
        result = await client.infer("digits", inputs(grpc, digits.x[ROWS]))
        agree(result.as_numpy("output"), digits.mean(ROWS))
