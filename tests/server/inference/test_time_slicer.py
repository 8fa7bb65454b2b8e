import asyncio
import json

import pytest

from server.errors import InvalidRequest
from server.http_api import protocol
from server.http_api.protocol import parse_in_steps
from server.inference.time_slicer import Turns, run_at_once


def count_to(last, log=None, name=""):
    for number in range(last):
        if log is not None:
            log.append((name, number))
        yield
    return last


def fail():
    yield
    raise InvalidRequest("no")


def test_all_steps_at_once():
    assert run_at_once(count_to(3)) == 3
    with pytest.raises(InvalidRequest):
        run_at_once(fail())


def test_steps_in_turns_end_in_the_same_way():
    async def both():
        turns = Turns()
        assert await asyncio.gather(*(turns.run(count_to(n)) for n in range(20))) == [*range(20)]
        with pytest.raises(InvalidRequest):
            await turns.run(fail())
        assert await turns.run(count_to(1)) == 1

    asyncio.run(both())


def test_who_is_cancelled_keeps_nobody_waiting():
    def endless():
        while True:
            yield

    async def cancel():
        turns = Turns()
        task = asyncio.create_task(turns.run(endless()))
        other = asyncio.create_task(turns.run(count_to(5)))
        assert await other == 5  # though the first has no end
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await turns.run(count_to(5)) == 5

    asyncio.run(cancel())


def test_the_loop_comes_round_often_while_a_big_request_is_parsed():
    tensor = {"name": "x", "shape": [1000, 100], "datatype": "FP64", "data": [1.2345678] * 100_000}
    body = json.dumps({"inputs": [tensor]}).encode()
    rounds = 0

    async def parse():
        nonlocal rounds
        parsing = asyncio.create_task(Turns().run(parse_in_steps(body, None)))
        while not parsing.done():
            await asyncio.sleep(0)
            rounds += 1
        return parsing.result()

    assert asyncio.run(parse()).tensors[0].array.sum() == pytest.approx(123_456.78)
    assert rounds > 3
    # However fast the machine is, no step parses more than a slice.
    assert sum(1 for _ in parse_in_steps(body, None)) > len(body) // (1 << 16)


MEGABYTES = 3 << 20


def document(data, datatype=b"FP32"):
    head = b'{"inputs":[{"name":"x","shape":[2,2],"datatype":"%b","data":' % datatype
    return head + data + b"}]}"


def items(item):
    return b"[" + b",".join([item] * (MEGABYTES // (len(item) + 1))) + b"]"


@pytest.mark.parametrize(
    "body",
    [
        document(items(b"null")),
        document(items(b'""'), b"BYTES"),
        document(b'["' + b"s" * MEGABYTES + b'"]', b"BYTES"),
        document(items(b"[1],[1,2]")),
        document(items(b"[]")),
        document(items(b"{}")),
        document(items(b"1")[:-1] + b",null]"),
        b'{"junk":{"data":' + items(b"1.5") + b'},"inputs":[]}',
        b'{"inputs":' + items(b'{"data":[1]}') + b"}",
        b'{"inputs":' + items(b'"data"') + b"}",
        b'{"parameters":{"a":' + items(b'""') + b'},"inputs":[]}',
        b'{"id":"' + b"x" * MEGABYTES + b'","inputs":[]}',
    ],
    ids=range(12),
)
def test_what_can_not_be_taken_in_steps_is_not_taken(body, monkeypatch):
    parsed = []
    decode = protocol._decode_header

    def note(text):
        parsed.append(len(text))
        return decode(text)

    monkeypatch.setattr(protocol, "_decode_header", note)
    steps = 0

    def parse():
        nonlocal steps
        for _ in parse_in_steps(body, None):
            steps += 1

    with pytest.raises(InvalidRequest, match="besides regular arrays of numbers"):
        parse()
    assert sum(parsed) < 1000
    assert steps < 5000


def test_many_inputs_each_of_which_is_small_are_read():
    inputs = [
        {"name": f"x{i}", "shape": [1, 4000], "datatype": "INT32", "data": [i] * 4000}
        for i in range(100)
    ]
    request = run_at_once(parse_in_steps(json.dumps({"inputs": inputs}).encode(), None))
    assert [tensor.array[0, 0] for tensor in request.tensors] == list(range(100))
