"""Example requests for a model, in text that works when it is pasted.

Runs in the process of the command line; pure. A model's inputs flow in, a command for the shell and
two Python programs flow out. They send one row of ones, ``a text`` or ``photo.jpg``; where that is
long, the command of the shell sends zeros instead, in binary.
"""

from __future__ import annotations

import json
import math
import shlex
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from urllib.parse import quote, urlsplit

import msgspec
from ensembled_client.wire import DTYPES

__all__ = ["ExampleRequest", "TensorInfo"]

#: The size of a variable dimension, if it may be as large.
_SIZE = 8
_MAX_JSON_ELEMENTS = 64
_PHOTO = "photo.jpg"
_TEXT = "a text"
#: Of a photo that is sent as pixels.
_PIXELS = (64, 64, 3)


class TensorInfo(msgspec.Struct, frozen=True):
    """A tensor that clients send or get.

    Attributes:
        shape: with the batch dimension; -1 is a variable size.
        max_shape: the largest sizes without the batch; empty if none is variable, or all unknown.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    max_shape: tuple[int, ...] = ()

    @property
    def is_image(self) -> bool:
        """Whether it is an encoded image."""
        return (self.name, self.datatype, self.shape) == ("image", "BYTES", (-1,))


@dataclass(frozen=True)
class ExampleRequest:
    """A request for one row of a model, which can be written for several clients.

    Attributes:
        model: its name.
        inputs: its inputs.
        url: of the server, ``http://`` or ``https://`` HOST:PORT.
        has_labels: whether the output has an element per class, with a label.
        needs_key: whether to send the API key in ENSEMBLED_API_KEY.
        version: of the model, empty where the server chooses it.
    """

    model: str
    inputs: tuple[TensorInfo, ...]
    url: str
    has_labels: bool = False
    needs_key: bool = False
    version: str = ""

    @cached_property
    def _shapes(self) -> list[tuple[int, ...]]:
        """The shape of one row of each input; equal variable sizes, since they may have to be."""
        limits = [
            limit
            for one in self.inputs
            for size, limit in zip(one.shape[1:], one.max_shape, strict=False)
            if size == -1
        ]
        variable = min([_SIZE, *limits])
        return [
            (1, *(variable if size == -1 else size for size in one.shape[1:]))
            for one in self.inputs
        ]

    def by_curl(self) -> str:
        """Return a command of the shell."""
        path = f"/v2/models/{quote(self.model)}"
        if self.version:
            path += f"/versions/{self.version}"
        call = f"curl -sS {shlex.quote(f'{self.url}{path}/infer')} \\\n"
        if self.needs_key:
            call += '  -H "Authorization: Bearer $ENSEMBLED_API_KEY" \\\n'
        if len(self.inputs) == 1 and self.inputs[0].is_image:
            return f"{call}  -H 'Content-Type: image/jpeg' --data-binary @{_PHOTO}"
        tensors = [*map(_json_tensor, self.inputs, self._shapes)]
        document = json.dumps({"inputs": tensors})
        size = sum(one.get("parameters", {}).get("binary_data_size", 0) for one in tensors)
        if not size:
            return f"{call}  -H 'Content-Type: application/json' -d {shlex.quote(document)}"
        return (
            f"{{ printf %s {shlex.quote(document)}; head -c {size} /dev/zero; }} |\n{call}"
            f"  -H 'Inference-Header-Content-Length: {len(document)}' --data-binary @-"
        )

    def by_python(self) -> str:
        """Return a program for our client."""
        values = [*map(_client_value, self.inputs, self._shapes)]
        x = values[0]
        if len(values) > 1:
            pairs = zip(self.inputs, values, strict=True)
            x = "".join(
                ["{\n", *(f"    {_quoted(one.name)}: {value},\n" for one, value in pairs), "}"]
            )
        imports = ["import os"] * self.needs_key + ["import numpy as np"] * ("np." in x)
        key = ', api_key=os.environ["ENSEMBLED_API_KEY"]' if self.needs_key else ""
        version = f", version={_quoted(self.version)}" if self.version else ""
        return "\n".join(
            [
                *imports,
                "from ensembled_client import EnsembleClient",
                "",
                f"x = {x}",
                f"with EnsembleClient({_quoted(self.url)}{key}) as client:",
                f"    answer = client.predict({_quoted(self.model)}, x{version})",
                "print(answer.values)",
                *(["print(answer.top(3))"] if self.has_labels else []),
            ]
        )

    def by_tritonclient(self) -> str:
        """Return a program for Triton's client over HTTP."""
        parts = urlsplit(self.url)
        ssl = ", ssl=True" if parts.scheme == "https" else ""
        key = ', headers={"authorization": "Bearer " + os.environ["ENSEMBLED_API_KEY"]}'
        lines = [
            *(["import os"] if self.needs_key else []),
            "import numpy as np",
            "import tritonclient.http as triton",
            "",
            f"client = triton.InferenceServerClient({_quoted(parts.netloc)}{ssl})",
            "inputs = []",
        ]
        for one, shape in zip(self.inputs, self._shapes, strict=True):
            arguments = f"{_quoted(one.name)}, {list(shape)}, {_quoted(one.datatype)}"
            lines.append(f"inputs.append(triton.InferInput({arguments}))")
            lines.append(f"inputs[-1].set_data_from_numpy({_triton_value(one, shape)})")
        version = f", model_version={_quoted(self.version)}" if self.version else ""
        sent = f"inputs{version}{key if self.needs_key else ''}"
        lines.append(f"answer = client.infer({_quoted(self.model)}, {sent})")
        return "\n".join([*lines, 'print(answer.as_numpy("output"))'])


def _quoted(text: str) -> str:
    """A literal of Python."""
    return json.dumps(text)


def _json_tensor(one: TensorInfo, shape: tuple[int, ...]) -> dict[str, Any]:
    """A tensor of the JSON document; its bytes follow the document if there are many."""
    datatype = one.datatype
    if one.is_image:
        datatype, shape = "UINT8", (1, *_PIXELS)
    tensor = {"name": one.name, "shape": shape, "datatype": datatype}
    elements = math.prod(shape)
    if datatype == "BYTES":
        return {**tensor, "data": [_TEXT] * elements}
    if elements > _MAX_JSON_ELEMENTS or datatype == "BF16":
        size = elements * DTYPES[datatype].itemsize
        return {**tensor, "parameters": {"binary_data_size": size}}
    value: float = {"BOOL": True, "FP16": 1.0, "FP32": 1.0, "FP64": 1.0}.get(datatype, 1)
    return {**tensor, "data": [value] * elements}


def _client_value(one: TensorInfo, shape: tuple[int, ...]) -> str:
    if one.is_image:
        return _quoted(_PHOTO)
    if one.datatype == "BYTES":
        return (
            f"[{_quoted(_TEXT)}]"
            if len(shape) == 1
            else f"np.full({shape}, {_quoted(_TEXT)}, object)"
        )
    dtype = "float32" if one.datatype == "BF16" else DTYPES[one.datatype].name
    return f"np.ones({shape}, np.{'bool_' if dtype == 'bool' else dtype})"


def _triton_value(one: TensorInfo, shape: tuple[int, ...]) -> str:
    if one.is_image:
        return f'np.array([open({_quoted(_PHOTO)}, "rb").read()], object)'
    if one.datatype == "BYTES":
        return f"np.full({shape}, b{_quoted(_TEXT)}, object)"
    return _client_value(one, shape)
