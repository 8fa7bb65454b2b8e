"""What clients send over HTTP, from a seed: messages, whole and broken. Pure."""

from __future__ import annotations

import gzip
import random
import zlib
from collections.abc import Callable
from functools import cache

from tests.fuzz.case import TOKENS, Case, damage, splice
from tests.fuzz.documents import (
    Draft,
    photos,
    tensors,
    wrong_bytes,
    wrong_json,
    wrong_parameters,
    wrong_size,
    wrong_tensor,
)
from tests.fuzz.pictures import good, picture

#: What the server of a campaign takes.
MAX_REQUEST_BYTES = 1 << 20

_METHODS = ("GET", "HEAD", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "POST", "PROPFIND")
_PATHS = (
    "/",
    "/v2",
    "/v2/",
    "/v2/health/live",
    "/v2/health/ready",
    "/v2/models/all",
    "/v2/models/all/config",
    "/v2/models/all/ready/",
    "/v2/models/all/versions/1/infer",
    "/v2/models/all/versions/2/infer",
    "/v2/models/all/versions/%31",
    "/v2/models/nobody/infer",
    "/v2/models/%00/infer",
    "/v2/models/%ff%fe/infer",
    "/v2/models/all%2Finfer",
    "/v2/models/../models/all",
    "/v2/models//infer",
    "/v2/models/" + "m" * 5000 + "/infer",
    "/v2/models/stats",
    "/v2/repository/index",
    "/v2/repository/models/all/load",
    "/v2/repository/models/nobody/unload",
    "/v2/systemsharedmemory/status",
    "/v2/trace/setting",
    "/v2/logging",
    "/v2/nothing?x=1&x=%zz",
    "/docs",
    "/openapi.json",
    "*",
    "http://elsewhere/v2",
)
_QUERIES = ("", "?classification=2", "?classification=" + "9" * 50, "?classification=-1", "?a=%ff")


def path_of(model: str) -> str:
    return f"/v2/models/{model}/infer"


def message(
    path: str, body: bytes, headers: list[str] = (), *, method: str = "POST", told: object = None
) -> bytes:
    """A message with its Content-Length, or another that is told."""
    lines = [f"{method} {path} HTTP/1.1", "Host: fuzz", *headers]
    lines.append(f"Content-Length: {len(body) if told is None else told}")
    return "\r\n".join([*lines, "", ""]).encode("utf-8", "surrogatepass") + body


def _of(kind: str, draft: Draft) -> Case:
    body, headers = draft.encode()
    return Case(kind, message(path_of(draft.model), body, headers))


def _valid(rng: random.Random) -> bytes:
    draft = tensors(rng) if rng.random() < 0.8 else photos(rng, [rng.choice(good())])
    return _of("", draft).data


def _json(rng: random.Random) -> Case:
    body = wrong_json(rng)
    headers = [] if rng.random() < 0.7 else [f"Inference-Header-Content-Length: {len(body)}"]
    return Case("JSON", message(path_of(rng.choice(("all", "photos"))), body, headers))


def _images(rng: random.Random) -> Case:
    if rng.random() < 0.5:
        return _of("images", photos(rng, [picture(rng) for _ in range(rng.choice((1, 1, 3)))]))
    path = path_of(rng.choice(("photos", "photos", "all"))) + rng.choice(_QUERIES)
    kind = rng.choice(("image/png", "image/jpeg", "image/", "image/x"))
    return Case("images", message(path, picture(rng), [f"Content-Type: {kind}"]))


@cache
def _bombs() -> tuple[bytes, ...]:
    blank = bytes(20 * MAX_REQUEST_BYTES)
    return gzip.compress(blank), zlib.compress(blank), gzip.compress(b"[" * MAX_REQUEST_BYTES)


def _compressed(rng: random.Random) -> Case:
    draft = tensors(rng)
    body, headers = draft.encode()
    squeezed = gzip.compress(body, 1) if rng.random() < 0.5 else zlib.compress(body, 1)
    match rng.randrange(6):
        case 0:
            squeezed = rng.choice(_bombs())
        case 1:
            squeezed = damage(rng, squeezed)
        case 2:
            squeezed = squeezed[: rng.randint(0, len(squeezed))]
        case 3:
            squeezed += rng.choice((b"\0", b"garbage", squeezed, gzip.compress(b"") * 5000))
        case _:
            pass
    encoding = rng.choice(("gzip", "gzip", "deflate", "deflate", "x-gzip", "br", "gzip, gzip", "ü"))
    accept = rng.choice(("gzip", "deflate;q=0.5", "*;q=x", "identity;q=0", ",;,q==", "gzip;q=nan"))
    told = [*headers, f"Content-Encoding: {encoding}", f"Accept-Encoding: {accept}"]
    return Case("compressed", message(path_of(draft.model), squeezed, told))


def _paths(rng: random.Random) -> Case:
    method = rng.choice(_METHODS)
    path = rng.choice(_PATHS) if rng.random() < 0.8 else "/" + _text(rng, 30)
    body = rng.choice((b"", b"", b"{}", b'{"ready":true}', b"[" * 5000))
    return Case("paths", message(path, body, method=method), is_head=method == "HEAD")


def _text(rng: random.Random, longest: int) -> str:
    return "".join(chr(rng.randrange(33, 127)) for _ in range(rng.randint(1, longest)))


def _damaged_body(rng: random.Random) -> Case:
    draft = tensors(rng) if rng.random() < 0.8 else photos(rng, [rng.choice(good())])
    body, headers = draft.encode()
    return Case("damaged bodies", message(path_of(draft.model), damage(rng, body), headers))


def _too_large(rng: random.Random) -> Case:
    length = MAX_REQUEST_BYTES + rng.choice((1, 1000, 10**6))
    expect = ["Expect: 100-continue"] if rng.random() < 0.5 else []
    if expect or rng.random() < 0.5:
        data = message(path_of("all"), b"", expect, told=length)
        return Case("too large", data, is_framed=bool(expect))
    return Case("too large", message(path_of("all"), bytes(length)))


# -- beneath messages --------------------------------------------------------------------------


def _request_lines(rng: random.Random) -> Case:
    draft = tensors(rng)
    body, headers = draft.encode()
    whole = message(path_of(draft.model), body, headers)
    first, _, rest = whole.partition(b"\r\n")
    first = rng.choice(
        (
            damage(rng, first),
            first.replace(b"1.1", rng.choice((b"1.0", b"0.9", b"2.0", b"9.9", b"1.", b"x"))),
            first.replace(b" ", rng.choice((b"", b"  ", b"\t", b"\0"))),
            first.replace(b"POST", rng.choice((b"post", b"P\0ST", b"CONNECT", b"PRI", b""))),
            first.replace(b"/v2", b"/" + b"p" * rng.choice((8_000, 70_000))),
        )
    )
    return Case("request lines", first + b"\r\n" + rest, is_framed=False)


_LENGTHS = ("-1", "abc", "", "1_0", "0x10", "9" * 30, "18446744073709551616", "1, 1", " 5 ", "+5")
_HEADERS = (
    "Transfer-Encoding: chunked",
    "Transfer-Encoding: gzip, chunked",
    "Transfer-Encoding: chunked, chunked",
    "Transfer-Encoding: xchunked",
    "Content-Length: 5",
    "Connection: close",
    "Connection: upgrade\r\nUpgrade: websocket",
    "Upgrade: h2c\r\nHTTP2-Settings: AAMAAABk",
    "Expect: 100-continue",
    "Expect: nonsense",
    "Expect:",
    "Host: again",
    "Content-Type: image/png",
    "No colon here",
    ": no name",
    "Folded: a\r\n b",
    "Bad\0Name: x",
    "X: \x7f\x01",
    "Content-Encoding: gzip",
    "Inference-Header-Content-Length: 5\r\nInference-Header-Content-Length: 6",
    *(f"Content-Length: {length}" for length in _LENGTHS),
)


def _headers(rng: random.Random) -> Case:
    draft = tensors(rng)
    body, headers = draft.encode()
    headers += rng.sample(_HEADERS, rng.randint(0, 3))
    match rng.randrange(5):
        case 0:
            headers.append("X: " + "a" * rng.choice((8_000, 65_000, 300_000)))
        case 1:
            headers += [f"X-{i}: y" for i in range(rng.choice((50, 2000)))]
        case _:
            pass
    lies = (None, len(body) - 1, len(body) + 1, 0, 10, *_LENGTHS)
    data = message(path_of(draft.model), body, headers, told=rng.choice(lies))
    return Case("headers", data, is_framed=False)


_CHUNKS = (b"0\r\n\r\n", b"-1\r\nx\r\n", b"fffffffffffffffff\r\n", b"zz\r\n", b"5\r\nab\r\n",
           b"1;e=" + b"e" * 20_000 + b"\r\nx\r\n", b"01\r\nx\r\n", b"\r\n", b"1\nx\n")  # fmt: skip
_ENDS = (b"0\r\n\r\n", b"0\r\nTrailer: x\r\n\r\n", b"0\r\n", b"", b"0\r\n" + b"T: x\r\n" * 5000)


def _chunked(rng: random.Random) -> Case:
    draft = tensors(rng)
    body, headers = draft.encode()
    size = rng.choice((1, 3, 100, 10**6))
    pieces = [body[i : i + size] for i in range(0, len(body), size)]
    chunks = [b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces]
    is_right = rng.random() < 0.3
    if not is_right:
        at = rng.randrange(len(chunks))
        chunks[at] = rng.choice((*_CHUNKS, damage(rng, chunks[at])))
    end = _ENDS[0] if is_right else rng.choice(_ENDS)
    lines = [f"POST {path_of(draft.model)} HTTP/1.1", "Host: fuzz", *headers]
    head = "\r\n".join([*lines, "Transfer-Encoding: chunked", "", ""]).encode()
    return Case("chunked", head + b"".join(chunks) + end, is_framed=is_right)


def _truncated(rng: random.Random) -> Case:
    whole = _valid(rng)
    return Case("truncated", whole[: rng.randrange(len(whole))], is_framed=False)


def _damaged(rng: random.Random) -> Case:
    return Case("damaged messages", damage(rng, _valid(rng)), is_framed=False)


def _spliced(rng: random.Random) -> Case:
    if rng.random() < 0.3:
        return Case("spliced", b"".join(_valid(rng) for _ in range(4)), is_framed=False)
    return Case("spliced", splice(rng, _valid(rng), _valid(rng)), is_framed=False)


def _noise(rng: random.Random) -> Case:
    data = rng.choice(
        (
            rng.randbytes(rng.randint(1, 300)),
            b"\x16\x03\x01\x02\x00" * rng.randint(1, 50),
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9),
            b"".join(rng.choices(TOKENS, k=20)),
            b"A" * 5000,
            b"\r\n" * rng.randint(1, 5000),
        )
    )
    return Case("no HTTP", data, is_framed=False)


def _gone(rng: random.Random) -> Case:
    whole = _valid(rng) if rng.random() < 0.9 else _compressed(rng).data
    return Case("gone", whole, gives_up=rng.choice((len(whole), rng.randrange(len(whole)))))


def _right(rng: random.Random) -> Case:
    return Case("right", _valid(rng))


#: Each kind with its share.
_MAKERS: tuple[tuple[int, Callable[[random.Random], Case]], ...] = (
    (10, _right),
    (12, lambda rng: _of("names, shapes, types", wrong_tensor(rng))),
    (12, lambda rng: _of("sizes", wrong_size(rng))),
    (8, lambda rng: _of("parameters", wrong_parameters(rng))),
    (8, _json),
    (6, lambda rng: _of("BYTES", wrong_bytes(rng))),
    (8, _images),
    (5, _compressed),
    (5, _paths),
    (14, _damaged_body),
    (1, _too_large),
    (4, _request_lines),
    (6, _headers),
    (4, _chunked),
    (5, _truncated),
    (10, _damaged),
    (4, _spliced),
    (4, _noise),
    (6, _gone),
)
_SHARES, _MAKE = zip(*_MAKERS, strict=True)


def http_case(rng: random.Random) -> Case:
    """One thing that a client does."""
    (make,) = rng.choices(_MAKE, _SHARES)
    case: Case = make(rng)
    return case
