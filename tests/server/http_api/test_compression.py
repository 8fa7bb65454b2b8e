import asyncio
import gzip
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.responses import Response

from server.errors import InvalidRequest, UnsupportedMediaType
from server.http_api.body import ENCODINGS, Decompressor, read_encoding
from server.http_api.responses import compress_response, preferred_encoding

LIMIT = 1 << 20
TEXT = b"some text, " * 100


COMPRESSORS = {"gzip": gzip.compress, "deflate": zlib.compress}


def decompress(encoding, chunks, limit=LIMIT, rounds=1 << 20):
    decompressor = Decompressor(encoding, limit)
    for chunk in chunks:
        decompressor.feed(chunk)
        while not decompressor.work(rounds):
            pass
    return None if decompressor.is_too_large else bytes(decompressor.finish())


def compress(body, accept_encoding):
    """The body and the Content-Encoding of a response."""
    response = Response(body)
    with ThreadPoolExecutor(1) as threads:
        asyncio.run(compress_response(response, accept_encoding, threads))
    assert response.headers["vary"] == "accept-encoding"
    assert response.headers["content-length"] == str(len(response.body))
    return response.body, response.headers.get("content-encoding")


@pytest.mark.parametrize("encoding", ENCODINGS)
@given(data=st.binary(max_size=3000), sizes=st.lists(st.integers(0, 50), max_size=20))
def test_whatever_the_chunks_the_body_comes_back(encoding, data, sizes):
    deflate = COMPRESSORS[encoding]
    rest, chunks = deflate(data), []
    for size in sizes:
        chunks.append(rest[:size])
        rest = rest[size:]
    assert decompress(encoding, [*chunks, rest]) == data
    assert decompress(encoding, [*chunks, rest], rounds=1) == data


@given(st.lists(st.binary(max_size=200), min_size=1, max_size=4), st.integers(1, 40))
def test_a_gzip_file_may_have_several_members(parts, size):
    whole = b"".join(gzip.compress(part) for part in parts)
    chunks = [whole[start : start + size] for start in range(0, len(whole), size)]
    assert decompress("gzip", chunks) == b"".join(parts)


@pytest.mark.parametrize("copies", [1, 100])
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_what_the_server_compresses_is_read_by_others(encoding, copies):
    back = gzip.decompress if encoding == "gzip" else zlib.decompress
    smaller, name = compress(TEXT * copies, encoding.encode())
    assert name == encoding
    assert back(smaller) == TEXT * copies
    assert decompress(encoding, [smaller]) == TEXT * copies


def test_responses_to_clients_that_accept_no_compression_stay_as_they_are():
    for accept_encoding in (None, b"", b"br"):
        assert compress(TEXT, accept_encoding) == (TEXT, None)


@pytest.mark.parametrize("size", range(0, 40, 3))
def test_bare_deflate_is_refused(size):
    stream = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    body = stream.compress(TEXT[:size]) + stream.flush()
    with pytest.raises(InvalidRequest, match="deflate"):
        decompress("deflate", [body])


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_body_that_ends_too_early_is_refused(encoding):
    deflate = COMPRESSORS[encoding]
    whole = deflate(TEXT)
    for length in range(len(whole)):
        with pytest.raises(InvalidRequest, match="too early") as refusal:
            decompress(encoding, [whole[:length]])
        assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("garbage", [b"x", bytes(100), b"\xff\xfe more than enough"])
def test_garbage_after_the_end_is_refused(encoding, garbage):
    deflate = COMPRESSORS[encoding]
    for chunks in ([deflate(TEXT) + garbage], [deflate(TEXT), garbage]):
        with pytest.raises(InvalidRequest):
            decompress(encoding, chunks)


@pytest.mark.parametrize("encoding", ENCODINGS)
@given(st.binary(max_size=100))
def test_any_bytes_inflate_or_are_refused(encoding, data):
    try:
        decompress(encoding, [data])
    except InvalidRequest as refusal:
        assert "\n" not in str(refusal)  # noqa: PT017


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_the_limit_is_of_the_inflated_body(encoding):
    deflate = COMPRESSORS[encoding]
    assert len(decompress(encoding, [deflate(bytes(LIMIT))])) == LIMIT
    assert decompress(encoding, [deflate(bytes(LIMIT + 1))]) is None


def test_a_bomb_is_refused_before_it_bursts():
    bomb = gzip.compress(bytes(100 << 20))
    decompressor = Decompressor("gzip", LIMIT)
    decompressor.feed(bomb)
    assert decompressor.work()
    assert decompressor.is_too_large
    assert decompressor.held_bytes <= LIMIT + len(bomb)


def test_members_that_are_empty_are_not_endless():
    assert decompress("gzip", [gzip.compress(b"") * 1000]) == b""
    with pytest.raises(InvalidRequest, match="members"):
        decompress("gzip", [gzip.compress(b"") * 10_000])


@pytest.mark.parametrize(
    ("header", "encoding"),
    [
        (None, ""),
        (b"", ""),
        (b"identity", ""),
        (b"gzip", "gzip"),
        (b" GZip ", "gzip"),
        (b"x-gzip", "gzip"),
        (b"deflate", "deflate"),
    ],
)
def test_encodings_of_requests(header, encoding):
    assert read_encoding(header) == encoding


@pytest.mark.parametrize("header", [b"br", b"zstd", b"gzip, deflate", b"*", b"\xff", b"gzip;q=1"])
def test_other_encodings_are_refused_naming_ours(header):
    with pytest.raises(UnsupportedMediaType, match="gzip or deflate"):
        read_encoding(header)


@pytest.mark.parametrize(
    ("accept", "encoding"),
    [
        (b"", ""),
        (b"gzip", "gzip"),
        (b"GZIP", "gzip"),
        (b"x-gzip", "gzip"),
        (b"deflate", "deflate"),
        (b"gzip, deflate, br", "gzip"),
        (b"deflate, gzip;q=0.5", "deflate"),
        (b"deflate;q=0.3, gzip ; q=0.5", "gzip"),
        (b"*", "gzip"),
        (b"gzip;q=0, *", "deflate"),
        (b"gzip;q=0", ""),
        (b"*;q=0", ""),
        (b"identity", ""),
        (b"identity, gzip;q=0.5", ""),
        (b"identity;q=0.1, gzip;q=0.5", "gzip"),
        (b"br, zstd", ""),
        (b"gzip;q=high", ""),
        (b"gzip;q=2", ""),
        (b"gzip;q=nan", ""),
        (b";;,,==,\xff", ""),
    ],
)
def test_encodings_of_answers(accept, encoding):
    assert preferred_encoding(accept) == encoding


@given(st.binary(max_size=60))
def test_any_wish_for_an_encoding_is_understood_or_passed_over(accept):
    assert preferred_encoding(accept) in {"", *ENCODINGS}


def test_raw_numbers_stay_as_they_are():
    noise = np.random.default_rng(0).normal(size=3000).astype(np.float32).tobytes()
    assert compress(noise, b"gzip") == (noise, None)
