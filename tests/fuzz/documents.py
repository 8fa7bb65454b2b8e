"""Infer requests as documents, right ones and wrong ones. Pure; used for HTTP."""

from __future__ import annotations

import json
import random
import struct
from typing import Any

import numpy as np

from tests.fuzz.pictures import picture

DATATYPES = ("BOOL", "UINT8", "INT8", "INT16", "INT32", "INT64", "UINT64", "FP16", "FP32", "FP64",
             "BF16", "BYTES", "", "FP33", "fp32")  # fmt: skip
NAMES = ("x", "y", "image", "", "X", "x\0", "ü", "x" * 3000, "output", "\ud7ff")
ODD = (None, True, False, 0, 1, -1, 2**31, 2**63, 2**64, -(2**63) - 1, 1.5, 1e308, "", "8", "x",
       [], {}, [[]], [None], {"a": 1})  # fmt: skip
OUTPUTS = (
    "output",
    "class",
    "variance",
    "entropy",
    "aleatoric",
    "interval",
    "quantiles",
    "prediction_set",
    "member_mask",
    "output.a",
    "output.b",
    "",
    "no",
)
DIMENSIONS = (-1, -(2**63), 0, 1, 2, 3, 2**31, 2**32, 2**48, 2**62, 2**63 - 1, 2**63, 2**64)


def row_values(rng: random.Random, rows: int, columns: int = 2) -> np.ndarray:
    return np.array([[rng.random() for _ in range(columns)] for _ in range(rows)], np.float32)


class Draft:
    """A request that is being written: its JSON, and the raw tensors behind it.

    Attributes:
        model: the one it asks.
        binary: whether its tensors come raw.
        length: what Inference-Header-Content-Length will say, None for the truth.
    """

    def __init__(self, model: str, document: dict[str, Any], raw: bytes, binary: bool) -> None:
        self.model, self.document, self.raw, self.binary = model, document, raw, binary
        self.length: int | str | None = None

    @property
    def tensor(self) -> dict[str, Any]:
        return self.document["inputs"][0]

    def encode(self) -> tuple[bytes, list[str]]:
        """The body, and the headers that belong to it."""
        text = json.dumps(self.document).encode()
        if not self.binary:
            return text, [] if self.length is None else [self._told(text)]
        return text + self.raw, [self._told(text)]

    def _told(self, text: bytes) -> str:
        length = len(text) if self.length is None else self.length
        return f"Inference-Header-Content-Length: {length}"


def tensors(rng: random.Random) -> Draft:
    """A request that is right, for an ensemble of tensors or for a member with two inputs."""
    rows, binary = rng.choice((1, 1, 2, 5, 40)), rng.random() < 0.5
    model = rng.choice(("all", "all", "a", "two", "mixed", "numbers", "long", "long"))
    columns = rng.choice((1, 2, 7, 64)) if model == "long" else 2
    only = rng.choice(("a", "two", "")) if model == "mixed" else ""
    arrays = {"x": row_values(rng, rows, columns)}
    if model in {"two", "mixed"} and only != "a":
        arrays["y"] = np.array([[rng.randint(-9, 9)] * 4 for _ in range(rows)], np.int16)
    inputs = []
    for name, array in arrays.items():
        shape = [rows, columns] if name == "x" else [rows, 2, 2]
        datatype = "FP32" if name == "x" else "INT16"
        tensor: dict[str, Any] = {"name": name, "shape": shape, "datatype": datatype}
        if binary:
            tensor["parameters"] = {"binary_data_size": array.nbytes}
        else:
            tensor["data"] = array.reshape(shape).tolist() if rng.random() < 0.5 else (
                array.ravel().tolist()
            )  # fmt: skip
        inputs.append(tensor)
    raw = b"".join(array.tobytes() for array in arrays.values())
    document: dict[str, Any] = {"inputs": inputs}
    if rng.random() < 0.3:
        document["id"] = str(rng.randrange(1000))
    if rng.random() < 0.5:
        document["parameters"] = {"binary_data_output": rng.random() < 0.5}
    if only:
        document.setdefault("parameters", {})["members"] = only
    return Draft(model, document, raw, binary)


def photos(rng: random.Random, images: list[bytes]) -> Draft:
    """A request with these images, encoded."""
    raw = b"".join(struct.pack("<I", len(image)) + image for image in images)
    tensor = {
        "name": "image",
        "shape": [len(images)],
        "datatype": "BYTES",
        "parameters": {"binary_data_size": len(raw)},
    }
    return Draft(rng.choice(("photos", "p")), {"inputs": [tensor]}, raw, True)


def wrong_tensor(rng: random.Random) -> Draft:
    """Wrong names, shapes and types; inputs that are missing or there twice."""
    draft = tensors(rng)
    inputs, tensor = draft.document["inputs"], draft.tensor
    match rng.randrange(8):
        case 0:
            tensor["name"] = rng.choice(NAMES)
        case 1:
            tensor["datatype"] = rng.choice((*DATATYPES, *ODD))
        case 2 | 3:
            tensor["shape"] = [
                rng.choice(DIMENSIONS) for _ in range(rng.choice((0, 1, 2, 2, 3, 40)))
            ]
        case 4:
            tensor["shape"] = rng.choice(ODD)
        case 5:
            inputs.append(dict(tensor))
        case 6:
            inputs.pop()
        case _:
            tensor.pop(rng.choice(list(tensor)))
    return draft


def wrong_size(rng: random.Random) -> Draft:
    """Sizes and lengths that lie."""
    draft = tensors(rng)
    draft.binary = True
    size = draft.tensor.pop("data", None) is None and len(draft.raw)
    lies = (0, 1, size - 1, size + 1, size + 4, -size, -1, 2**31, 2**63, 2**64, *ODD)
    match rng.randrange(4):
        case 0:
            draft.tensor["parameters"] = {"binary_data_size": rng.choice(lies)}
        case 1:
            draft.length = rng.choice((0, 1, 7, 10**6, 2**63, 2**64, -1, "", "abc", "1e3", "0x10",
                                       "٣", "9" * 400, " 5", "5 5", "+5"))  # fmt: skip
        case 2:
            draft.raw = draft.raw[: rng.randint(0, len(draft.raw))]
        case _:
            draft.raw += rng.randbytes(rng.randint(1, 9))
    return draft


def wrong_parameters(rng: random.Random) -> Draft:
    """Strange parameters of the request and of its outputs."""
    draft = tensors(rng)
    value = rng.choice((*ODD, 5, 100, "a", "a,b", "a,zz", ",,,", 0.9, 1e-300, "0.1,0.9", [0.5]))
    names = ("timeout", "quorum", "members", "priority", "sequence_id", "binary_data_output",
             "headers", "triton_x", "", "classification", "shared_memory_region", "coverage",
             "quantiles")  # fmt: skip
    match rng.randrange(4):
        case 0:
            draft.document["parameters"] = rng.choice(ODD)
        case 1:
            draft.document.setdefault("parameters", {})[rng.choice(names)] = value
        case 2:
            draft.document["outputs"] = rng.choice((*ODD, [{"name": "output"}] * 2))
        case _:
            chosen = rng.sample(OUTPUTS, rng.randint(1, 3))
            parameters = {rng.choice(("binary_data", "classification", *names)): value}
            draft.document["outputs"] = [{"name": n, "parameters": parameters} for n in chosen]
    return draft


_NUMBERS = (b"NaN", b"Infinity", b"-Infinity", b"1e400", b"-", b"01", b"1" * 5000, b"0x1", b"1.",
            b"1e999999999", b"9" * 25, b"null", b'"1"')  # fmt: skip
_SCRAPS = (b"", b" ", b"null", b"1", b"[]", b'""', b"{}", b'{"inputs":{}}', b"\0",
           b'{"inputs":[{}]}', b"\xef\xbb\xbf{}", b'{"inputs":[],"inputs":[]}')  # fmt: skip
_BAD_TEXT = (b'"\xff', b'"\xed\xa0\x80', b'"\\ud800', b'"\0', b'"\\u00')
_ITEMS = (b"1", b"0.5", b"true", b'"s"', b"null", b"[1]", b"1,[2", b"{}", b"[[]]", b'"\\n"')


def wrong_json(rng: random.Random) -> bytes:
    """JSON that is none, or that is too much."""
    text, _ = tensors(rng).encode()
    number = rng.choice(_NUMBERS)
    depth = rng.choice((10, 1000, 10_000, 100_000))
    nested = b"[" * depth + b"1,2" + b"]" * rng.choice((depth, depth - 1, 0))
    long = b",".join([rng.choice(_ITEMS)] * rng.choice((39_999, 40_000)) + [b"2"])
    string = b"s" * rng.choice((1, 10_000, 200_000))
    keys = b",".join(b'"key%d":%d' % (i, i) for i in range(rng.choice((2, 5000))))
    makers = (
        lambda: _input(b"1,2", b"FP32", nested),
        lambda: rng.choice((b"[", b'{"inputs":', b'{"a":[')) * depth,
        lambda: _input(b"1,2", b"FP32", b"[1,%b]" % number),
        lambda: _input(number + b",2", b"FP32", b"[1,2]"),
        lambda: text.replace(b'"', rng.choice(_BAD_TEXT), 3),
        lambda: text[:-1] + b',"inputs":[],' + text[1:],
        lambda: _input(b"1,2", b"BYTES", b'["%b"]' % string),
        lambda: _input(b"20000,2", rng.choice((b"FP32", b"BYTES")), b"[%b]" % long),
        lambda: rng.choice(_SCRAPS),
        lambda: _input(b"1,2", b"FP32", b"[1,2]," + keys),
    )
    return rng.choice(makers)()


def _input(shape: bytes, datatype: bytes, data: bytes) -> bytes:
    described = b'"name":"x","shape":[%b],"datatype":"%b"' % (shape, datatype)
    return b'{"inputs":[{%b,"data":%b}]}' % (described, data)


def wrong_bytes(rng: random.Random) -> Draft:
    """BYTES elements that run over, and counts that are not true."""
    draft = photos(rng, [picture(rng) for _ in range(rng.choice((1, 1, 2, 3)))])
    match rng.randrange(5):
        case 0:
            draft.raw = struct.pack("<I", rng.choice((0, 1, 2**31, 2**32 - 1))) + draft.raw[4:]
        case 1:
            draft.raw = draft.raw[: rng.randint(0, len(draft.raw))]
            draft.tensor["parameters"] = {"binary_data_size": len(draft.raw)}
        case 2:
            draft.tensor["shape"] = [rng.choice(DIMENSIONS)]
        case 3:
            draft.raw = bytes(4 * rng.choice((1, 1000, 40_000)))
            draft.tensor["shape"] = [len(draft.raw) // 4]
            draft.tensor["parameters"] = {"binary_data_size": len(draft.raw)}
        case _:
            draft.tensor["datatype"] = rng.choice(("UINT8", "FP32"))
            draft.tensor["shape"] = [rng.choice((1, 2**40)), 4, rng.choice((0, 1, 4, 2**40)), 3]
            if rng.random() < 0.5:
                draft.raw = b""
                draft.tensor["parameters"] = {"binary_data_size": 0}
    return draft
