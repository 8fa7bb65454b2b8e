import gzip
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.errors import InvalidRequest, RequestTooLarge, UnsupportedMediaType
from server.http_api.compression import (
    ENCODINGS,
    Inflater,
    compress_if_worth,
    preferred,
    read_encoding,
)

LIMIT = 1 << 20
TEXT = b"some text, " * 100


def bare(data):
    stream = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return stream.compress(data) + stream.flush()


WAYS = {"gzip": ("gzip", gzip.compress), "deflate": ("deflate", zlib.compress)}
WAYS["bare"] = ("deflate", bare)


def inflate(encoding, chunks, limit=LIMIT, steps=None):
    inflater = Inflater(encoding, limit)
    for chunk in chunks:
        inflater.feed(chunk)
        while not inflater.work(steps):
            pass
    return bytes(inflater.finish())


@pytest.mark.parametrize("way", WAYS)
@given(data=st.binary(max_size=3000), sizes=st.lists(st.integers(0, 50), max_size=20))
def test_whatever_the_chunks_the_body_comes_back(way, data, sizes):
    encoding, deflate = WAYS[way]
    rest, chunks = deflate(data), []
    for size in sizes:
        chunks.append(rest[:size])
        rest = rest[size:]
    assert inflate(encoding, [*chunks, rest]) == data
    assert inflate(encoding, [*chunks, rest], steps=1) == data


@given(st.lists(st.binary(max_size=200), min_size=1, max_size=4), st.integers(1, 40))
def test_a_gzip_file_may_have_several_members(parts, size):
    whole = b"".join(gzip.compress(part) for part in parts)
    chunks = [whole[start : start + size] for start in range(0, len(whole), size)]
    assert inflate("gzip", chunks) == b"".join(parts)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_what_the_server_compresses_is_read_by_others(encoding):
    back = gzip.decompress if encoding == "gzip" else zlib.decompress
    smaller = compress_if_worth(TEXT, encoding)
    assert back(smaller) == TEXT
    assert inflate(encoding, [smaller]) == TEXT


@pytest.mark.parametrize("way", WAYS)
def test_a_body_that_ends_too_early_is_refused(way):
    encoding, deflate = WAYS[way]
    whole = deflate(TEXT)
    for length in range(len(whole)):
        with pytest.raises(InvalidRequest, match="too early") as refusal:
            inflate(encoding, [whole[:length]])
        assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("garbage", [b"x", bytes(100), b"\xff\xfe more than enough"])
def test_garbage_after_the_end_is_refused(way, garbage):
    encoding, deflate = WAYS[way]
    for chunks in ([deflate(TEXT) + garbage], [deflate(TEXT), garbage]):
        with pytest.raises(InvalidRequest):
            inflate(encoding, chunks)


@pytest.mark.parametrize("encoding", ENCODINGS)
@given(st.binary(max_size=100))
def test_any_bytes_inflate_or_are_refused(encoding, data):
    try:
        inflate(encoding, [data])
    except InvalidRequest as refusal:
        assert "\n" not in str(refusal)  # noqa: PT017


@pytest.mark.parametrize("way", WAYS)
def test_the_limit_is_of_the_inflated_body(way):
    encoding, deflate = WAYS[way]
    assert len(inflate(encoding, [deflate(bytes(LIMIT))])) == LIMIT
    with pytest.raises(RequestTooLarge, match=str(LIMIT)):
        inflate(encoding, [deflate(bytes(LIMIT + 1))])


def test_a_bomb_is_refused_before_it_bursts():
    bomb = gzip.compress(bytes(100 << 20))
    inflater = Inflater("gzip", LIMIT)
    inflater.feed(bomb)
    with pytest.raises(RequestTooLarge):
        inflater.work()
    assert len(inflater._out) <= LIMIT


def test_members_that_are_empty_are_not_endless():
    assert inflate("gzip", [gzip.compress(b"") * 1000]) == b""
    with pytest.raises(InvalidRequest, match="members"):
        inflate("gzip", [gzip.compress(b"") * 10_000])


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
    assert preferred(accept) == encoding


@given(st.binary(max_size=60))
def test_any_wish_for_an_encoding_is_understood_or_passed_over(accept):
    assert preferred(accept) in {"", *ENCODINGS}


def test_raw_numbers_stay_as_they_are():
    noise = np.random.default_rng(0).normal(size=3000).astype(np.float32)
    assert compress_if_worth(noise.tobytes(), "gzip") is None
