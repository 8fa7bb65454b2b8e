"""The requests of a test, encoded by the parent before it and sent again and again.

Inputs are random, or come from files; every load process gets the whole `Workload`.
"""

from __future__ import annotations

import io
import itertools
import math
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from ensembled_client.load.options import LoadTarget, LoadTestError, UsageError, authorization
from ensembled_client.wire import (
    DTYPES,
    Array,
    WireError,
    binary_request,
    bytes_array,
    json_request,
    raw_tensor,
)

__all__ = [
    "InputSpec",
    "Inputs",
    "Workload",
    "encode_grpc_request",
    "encode_http_request",
    "encode_png",
    "file_inputs",
    "input_specs",
    "make_workload",
    "random_image",
    "random_inputs",
]

#: One request's arrays [rows, ...] by input; those of BYTES hold bytes objects.
Inputs = Mapping[str, Array]

_IMAGE = "image"
_MAX_INTEGER = 100
_DECIMALS = 6
# The limit of all requests of a test together, in each process.
_MAX_BYTES = 64 << 20


@dataclass(frozen=True)
class Workload:
    """Encoded requests by their number of rows."""

    rows: int  # of a request whose arrival does not say it
    requests: Mapping[int, tuple[bytes, ...]]  # one or more each

    def cycles(self, start: int = 0) -> dict[int, Iterator[bytes]]:
        """Return iterators through the requests, round and round from number `start` on."""
        return {
            rows: itertools.islice(itertools.cycle(requests), start % len(requests), None)
            for rows, requests in self.requests.items()
        }


# -- inputs ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class InputSpec:
    """An input of the model: `shape` is without the batch dimension."""

    name: str
    datatype: str
    shape: tuple[int, ...]

    @property
    def is_image(self) -> bool:
        """Whether it takes encoded images."""
        return (self.name, self.datatype) == (_IMAGE, "BYTES")


def input_specs(
    metadata: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], *, may_vary: bool = False
) -> list[InputSpec]:
    """Return a model's inputs: open dimensions are given in `shapes` by input, or stay -1.

    They stay so only if they `may_vary` from request to request.

    Raises LoadTestError if a datatype or a dimension is unknown, and UsageError if a shape is given
    for no input, or contradicts the metadata.
    """
    described = {one["name"]: one for one in metadata["inputs"]}
    for name in shapes.keys() - described.keys():
        raise UsageError(f"--shape {name}: the model's inputs are {', '.join(described)}")
    return [
        _input_spec(one, shapes.get(name), may_vary=may_vary) for name, one in described.items()
    ]


def _input_spec(
    described: Mapping[str, Any], shape: tuple[int, ...] | None, *, may_vary: bool
) -> InputSpec:
    name, datatype = described["name"], described["datatype"]
    declared = tuple(int(size) for size in described["shape"][1:])
    if datatype == "BF16" or (datatype not in DTYPES and datatype != "BYTES"):
        raise LoadTestError(f"input {name!r}: the load tester has no data of type {datatype}")
    if shape is None:
        if -1 in declared and not may_vary:
            sizes = ",".join("N" if size == -1 else str(size) for size in declared)
            raise LoadTestError(
                f"input {name!r} leaves dimensions open: say --shape {name}:{sizes}, "
                "or --length MIN-MAX"
            )
        return InputSpec(name, datatype, declared)
    if len(shape) != len(declared) or any(
        size not in {-1, given} for size, given in zip(declared, shape, strict=True)
    ):
        raise UsageError(f"--shape {name}: the model has {list(declared)}, not {list(shape)}")
    return InputSpec(name, datatype, shape)


def random_inputs(
    specs: Sequence[InputSpec],
    rows: int,
    seed: int,
    image_size: tuple[int, int],
    lengths: tuple[int, int] | None = None,
) -> Iterator[Inputs]:
    """Yield random inputs without end; the same for the same seed.

    Floats are 0 to 1 with six decimals, integers 0 to 100 (0 to 255 for UINT8). Open dimensions of
    one request are equal: log-normal around the geometric mean of `lengths`, clipped to these.
    """
    random = np.random.default_rng(seed)
    while True:
        known = specs if lengths is None else _of_length(specs, _random_length(random, *lengths))
        yield {spec.name: _random_array(spec, rows, random, image_size) for spec in known}


def _random_length(random: np.random.Generator, least: int, most: int) -> int:
    centre, spread = math.log(least * most) / 2, math.log(most / least) / 4
    length = round(math.exp(centre + spread * random.standard_normal()))
    return min(max(length, least), most)


def _of_length(specs: Sequence[InputSpec], length: int) -> list[InputSpec]:
    return [
        replace(spec, shape=tuple(length if size == -1 else size for size in spec.shape))
        for spec in specs
    ]


def _random_array(
    spec: InputSpec, rows: int, random: np.random.Generator, image_size: tuple[int, int]
) -> Array:
    shape = (rows, *spec.shape)
    if spec.is_image:
        return bytes_array([encode_png(random_image(random, *image_size)) for _ in range(rows)])
    if spec.datatype == "BYTES":
        count = int(np.prod(shape))
        return bytes_array([random.bytes(8).hex().encode() for _ in range(count)]).reshape(shape)
    dtype = DTYPES[spec.datatype]
    if dtype.kind == "b":
        return random.integers(0, 2, shape).astype(dtype)
    if dtype.kind in "iu":
        largest = 255 if spec.datatype == "UINT8" else _MAX_INTEGER
        return random.integers(0, largest, shape, endpoint=True).astype(dtype)
    return random.random(shape).round(_DECIMALS).astype(dtype)


def random_image(random: np.random.Generator, width: int, height: int) -> npt.NDArray[np.uint8]:
    """Return an image [height, width, 3] of smooth gradients of random colours with a little grain.

    Such a file is about as large as a drawing, and costs about as much to decode as a photograph.
    """
    corners = random.uniform(0, 255, (2, 2, 3))
    down, right = np.linspace(0, 1, height)[:, None, None], np.linspace(0, 1, width)[None, :, None]
    upper = corners[0, 0] * (1 - right) + corners[0, 1] * right
    lower = corners[1, 0] * (1 - right) + corners[1, 1] * right
    grain = random.integers(-3, 4, (height, width, 1))
    pixels: npt.NDArray[np.float64] = upper * (1 - down) + lower * down + grain
    return pixels.clip(0, 255).astype(np.uint8)


def encode_png(pixels: npt.NDArray[np.uint8]) -> bytes:
    """Encode an image [height, width, 3], RGB."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def file_inputs(specs: Sequence[InputSpec], rows: int, paths: Sequence[Path]) -> Iterator[Inputs]:
    """Yield inputs from files without end: `rows` rows after the other, round and round.

    The files are one ``.npz`` with an array [n, ...] per input, one ``.npy`` for a model with one
    input, or encoded images; or images and an ``.npz`` for a model that takes both. Raises
    LoadTestError if one can't be read, or does not fit the model.
    """
    arrays = _read_files(specs, paths)
    total = min(len(array) for array in arrays.values())
    for start in itertools.count(step=rows):
        numbers = (start + np.arange(rows)) % total
        yield {name: array[numbers] for name, array in arrays.items()}


def _read_files(specs: Sequence[InputSpec], paths: Sequence[Path]) -> dict[str, Array]:
    files = [path for path in paths if path.suffix.lower() in {".npy", ".npz"}]
    images = [path for path in paths if path not in files]
    if len(files) > 1 or (files and images and len(specs) == 1):
        raise UsageError("--input takes one .npy or .npz file, or any number of images")
    arrays = {}
    if images:
        image = next((spec for spec in specs if spec.is_image), None)
        if image is None:
            raise LoadTestError(
                f"{images[0]}: the model does not take images, but .npy or .npz files"
            )
        specs = [spec for spec in specs if spec is not image]
        arrays[image.name] = _read_images(images)
    if specs and not files:
        names = ", ".join(spec.name for spec in specs)
        raise LoadTestError(f"{images[0]}: the model takes {names} as well: give an .npz file, too")
    return arrays | (_read_arrays(specs, files[0]) if files else {})


def _read_images(paths: Sequence[Path]) -> Array:
    try:
        return bytes_array([path.read_bytes() for path in paths])
    except OSError as error:
        raise LoadTestError(f"{error.filename}: {error.strerror}") from None


def _read_arrays(specs: Sequence[InputSpec], path: Path) -> dict[str, Array]:
    try:
        with path.open("rb") as file:
            loaded = np.load(file, allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                if len(specs) != 1:
                    names = ", ".join(spec.name for spec in specs)
                    raise LoadTestError(f"{path}: the model has several inputs, {names}: use .npz")
                return {specs[0].name: _fit(specs[0], loaded, path)}
            arrays = {}
            for spec in specs:
                if spec.name not in loaded:
                    names = ", ".join(loaded)
                    raise LoadTestError(f"{path} has no array {spec.name!r}, but {names}")
                arrays[spec.name] = _fit(spec, loaded[spec.name], path)
            return arrays
    except OSError as error:
        raise LoadTestError(f"{path}: {error.strerror or error}") from None
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        raise LoadTestError(f"{path} can't be read: {error}") from None


def _fit(spec: InputSpec, array: Array, path: Path) -> Array:
    """Return the array in the model's datatype, [n, *shape]."""
    if spec.datatype == "BYTES" and array.dtype.kind in "SU":
        flat = [one.encode() if isinstance(one, str) else one for one in array.ravel().tolist()]
        array = bytes_array(flat).reshape(array.shape)
    elif spec.datatype == "BYTES" or array.dtype.kind not in "biuf":
        raise LoadTestError(f"{path}: input {spec.name!r} is {spec.datatype}, not {array.dtype}")
    else:
        array = array.astype(DTYPES[spec.datatype])
    if array.shape == spec.shape:
        array = array[np.newaxis]
    if array.shape[1:] != spec.shape or len(array) == 0:
        raise LoadTestError(
            f"{path}: input {spec.name!r} should be [n, {', '.join(map(str, spec.shape))}], "
            f"not {list(array.shape)}"
        )
    return array


# -- requests ----------------------------------------------------------------------------------


def make_workload(
    target: LoadTarget,
    specs: Sequence[InputSpec],
    inputs: Mapping[int, Iterator[Inputs]],
    parameters: Mapping[str, Any],
    *,
    rows: int,
    payloads: int,
) -> Workload:
    """Encode the requests of a test, `payloads` for each number of rows; fewer if they are large.

    Raises LoadTestError if this protocol can't encode one, UsageError if that is due to an option.
    """
    if target.protocol == "json" and any(spec.is_image for spec in specs):
        raise UsageError("encoded images can't be JSON: use --protocol binary, or grpc")
    encode = encode_grpc_request if target.protocol == "grpc" else encode_http_request
    requests = {}
    for count, arrays in inputs.items():
        encoded = (encode(target, one, parameters) for one in arrays)
        limit_bytes = _MAX_BYTES // len(inputs)
        requests[count] = tuple(_limited(itertools.islice(encoded, payloads), limit_bytes))
    return Workload(rows, requests)


def _limited(requests: Iterable[bytes], limit_bytes: int) -> Iterator[bytes]:
    """Yield requests up to a total size, but at least one."""
    total_bytes = 0
    for number, request in enumerate(requests):
        total_bytes += len(request)
        if number and total_bytes > limit_bytes:
            return
        yield request


def encode_http_request(target: LoadTarget, inputs: Inputs, parameters: Mapping[str, Any]) -> bytes:
    """Return a whole HTTP request, head and body.

    Raises LoadTestError if the inputs can't be JSON, UsageError if the API key is malformed.
    """
    if target.protocol == "binary":
        body, headers = binary_request(inputs, parameters)
    else:
        headers = {"Content-Type": "application/json"}
        try:
            body = json_request(inputs, parameters)
        except WireError as error:
            raise LoadTestError(str(error)) from None
    lines = [
        f"POST {target.model_path}/infer HTTP/1.1",
        f"Host: {target.address.authority}",
        "User-Agent: ensembled-load",
        f"Content-Length: {len(body)}",
        *(f"{name}: {text}" for name, text in (headers | authorization()).items()),
    ]
    return "\r\n".join([*lines, "", ""]).encode() + body


def encode_grpc_request(target: LoadTarget, inputs: Inputs, parameters: Mapping[str, Any]) -> bytes:
    """Return a serialised ModelInferRequest."""
    from ensembled_client.wire.messages import request_message  # noqa: PLC0415  (an extra)

    tensors = [raw_tensor(name, array) for name, array in inputs.items()]
    message = request_message(target.model, tensors, parameters=parameters)
    serialised: bytes = message.SerializeToString()
    return serialised
