import asyncio
import gzip
from concurrent.futures import Executor, ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.engine.memory_budget import COUNTED_BYTES, MemoryBudget
from server.errors import InvalidRequest, QueueFull, RequestTooLarge
from server.http_api.body import BodyReader, Disconnected, discard_body, read_length

LIMIT = 100_000


class NoThreads(Executor):
    def submit(self, *_args, **_kwargs):
        raise AssertionError("small bodies need no thread")


def messages(chunks):
    last = len(chunks) - 1
    return [
        {"type": "http.request", "body": chunk, "more_body": i < last}
        for i, chunk in enumerate(chunks)
    ]


def read(given, headers=None, threads=None, budget=None):
    """Read a body; returns it and the messages that were left unread."""
    left = list(given)

    async def receive():
        await asyncio.sleep(0)
        return left.pop(0)

    reader = BodyReader(LIMIT, threads or NoThreads(), budget)
    return asyncio.run(reader.read(headers or {}, receive)), left


@given(st.lists(st.binary(max_size=100), min_size=1, max_size=10))
def test_a_body_in_chunks(chunks):
    body, _ = read(messages(chunks))
    assert body == b"".join(chunks)


def test_one_chunk_is_not_copied():
    chunk = b"some bytes"
    assert read(messages([chunk]))[0] is chunk


def test_messages_without_a_body():
    assert read([{"type": "http.request"}])[0] == b""


def test_the_limit_itself_is_allowed():
    for chunks in ([bytes(LIMIT)], [bytes(LIMIT - 1), b"x"]):
        assert len(read(messages(chunks))[0]) == LIMIT


def test_what_is_announced_as_too_large_is_not_read():
    async def receive():
        raise AssertionError("nothing is read")

    reader = BodyReader(LIMIT, NoThreads())
    with pytest.raises(RequestTooLarge, match=str(LIMIT)):
        asyncio.run(reader.read({b"content-length": b"%d" % (LIMIT + 1)}, receive))


def test_what_turns_out_too_large_is_not_read_on():
    given_messages = messages([bytes(LIMIT), b"x", b"more"])
    left = list(given_messages)

    async def receive():
        return left.pop(0)

    with pytest.raises(RequestTooLarge):
        asyncio.run(BodyReader(LIMIT, NoThreads()).read({}, receive))
    assert left == given_messages[2:]


def test_a_client_that_goes():
    gone = {"type": "http.disconnect"}
    for before in ([], messages([b"abc", b"def"])[:1]):
        with pytest.raises(Disconnected):
            read([*before, gone])


GZIP = {b"content-encoding": b"gzip"}


def test_a_compressed_body():
    text = b"0.25, " * 1000
    small = gzip.compress(text)
    assert read(messages([small]), GZIP)[0] == text
    assert read(messages([small[:5], small[5:]]), GZIP)[0] == text


def test_a_big_compressed_body_is_inflated_in_a_thread():
    with ThreadPoolExecutor(1) as threads:
        big = gzip.compress(bytes(10 * LIMIT))
        with pytest.raises(RequestTooLarge, match="decompresses beyond"):
            read(messages([big]), GZIP, threads)
        reader = BodyReader(20 * LIMIT, threads)
        left = messages([big[:500], big[500:]])

        async def receive():
            return left.pop(0)

        assert asyncio.run(reader.read(GZIP, receive)) == bytes(10 * LIMIT)


def test_a_compressed_body_is_limited_as_it_comes_too():
    with pytest.raises(RequestTooLarge):
        read(messages([bytes(LIMIT + 1)]), GZIP)


@pytest.mark.parametrize("value", [b"", b"-1", b"+1", b"1.5", b" 1", b"1_0", b"9" * 19, b"\xb2"])
def test_lengths_that_are_none(value):
    with pytest.raises(InvalidRequest, match="X is not a length"):
        read_length(value, "X")


def test_lengths():
    assert read_length(None, "X") is None
    assert read_length(b"0017", "X") == 17


def test_what_a_refused_client_still_sends_is_forgotten():
    left = messages([b"a", b"b", b"c"])

    async def receive():
        return left.pop(0)

    asyncio.run(discard_body(receive))
    assert not left
    left.append({"type": "http.disconnect"})
    asyncio.run(discard_body(receive))
    assert not left


# -- what bodies hold together ------------------------------------------------------------------

BIG = COUNTED_BYTES


@pytest.mark.parametrize(
    "chunks", [[bytes(BIG)], [bytes(BIG - 1), b"x"], [b"x"] * 10 + [bytes(BIG)], [bytes(BIG), b""]]
)
def test_what_was_read_is_held_until_it_is_released(chunks):
    budget = MemoryBudget(LIMIT)
    body, _ = read(messages(chunks), budget=budget)
    assert budget.held_bytes == len(body)
    BodyReader(LIMIT, NoThreads(), budget).release(body)
    assert budget.held_bytes == 0


def test_small_bodies_are_not_counted():
    budget = MemoryBudget(0)
    assert read(messages([bytes(BIG - 1)]), budget=budget)[0] == bytes(BIG - 1)
    budget = MemoryBudget(10)
    body, _ = read(messages([b"a" * 4] * 2), budget=budget)
    BodyReader(LIMIT, NoThreads(), budget).release(body)
    assert budget.held_bytes == 0


def test_pieces_of_a_body_count_as_they_come():
    budget, held = MemoryBudget(LIMIT), []
    left = messages([bytes(10)] * 3 + [bytes(BIG)])

    async def receive():
        held.append(budget.held_bytes)
        return left.pop(0)

    announced = {b"content-length": b"%d" % (30 + BIG)}
    asyncio.run(BodyReader(LIMIT, NoThreads(), budget).read(announced, receive))
    assert held == [0, 10, 20, 30]


@pytest.mark.parametrize("headers", [{}, {b"content-encoding": b"gzip"}])
@pytest.mark.parametrize("end", ["too large", "gone", "memory"])
def test_a_body_that_is_not_read_to_its_end_holds_nothing(headers, end):
    budget = MemoryBudget(LIMIT // 2 if end == "memory" else 2 * LIMIT)
    given = messages([bytes(LIMIT // 2)] * 2 + [b"x", b""])
    if headers:
        given[0]["body"] = gzip.compress(bytes(LIMIT // 2), 0)
    if end == "gone":
        given[1] = {"type": "http.disconnect"}
    with (
        ThreadPoolExecutor(1) as threads,
        pytest.raises((RequestTooLarge, QueueFull, Disconnected, InvalidRequest)),
    ):
        read(given, headers, threads, budget=budget)
    assert budget.held_bytes == 0


def test_a_body_is_refused_if_others_hold_too_much():
    budget = MemoryBudget(LIMIT)
    budget.reserve(LIMIT - BIG)
    with pytest.raises(QueueFull, match="hold") as caught:
        read(messages([bytes(BIG), b"x"]), budget=budget)
    assert caught.value.reason == "memory"
    # One that is announced is refused before it is read.
    given = messages([bytes(BIG), b"x"])
    with pytest.raises(QueueFull):
        read(given, {b"content-length": b"%d" % (BIG + 1)}, budget=budget)
    assert budget.held_bytes == LIMIT - BIG
    assert len(read(messages([bytes(BIG)]), budget=budget)[0]) == BIG


def test_a_body_holds_what_it_inflates_to():
    budget = MemoryBudget(10 * LIMIT)
    small = gzip.compress(bytes(BIG))
    body, _ = read(messages([small[:40], small[40:]]), GZIP, budget=budget)
    assert budget.held_bytes == len(body) == BIG
    with pytest.raises(QueueFull):
        read(messages([small]), GZIP, budget=MemoryBudget(BIG // 2))
