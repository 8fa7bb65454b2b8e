"""ONNX models, run by onnxruntime on a group of CPU cores or on a GPU.

Runs in workers and in inspection. NumPy arrays flow in and out; on a GPU onnxruntime copies them,
and returns when the output is in host memory.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from msgspec.structs import replace

from workers.backends.base import (
    PROBE_ROWS,
    Array,
    Model,
    choose_outputs,
    input_spec,
    installed_version,
    model_file,
    probe_signature,
    refusal,
)
from workers.backends.onnx_classes import ClassMaps, preferred_output, refuse_texts
from workers.backends.onnx_file import OnnxFileError, external_files
from workers.backends.onnx_work import count_work
from workers.backends.sizes import plain_rows
from workers.runtime.spec import DeviceSpec, ModelSource, Work
from workers.runtime.texts import one_line

__all__ = ["OnnxModel"]

_DATATYPES = {
    "tensor(bool)": "BOOL",
    "tensor(uint8)": "UINT8",
    "tensor(uint16)": "UINT16",
    "tensor(uint32)": "UINT32",
    "tensor(uint64)": "UINT64",
    "tensor(int8)": "INT8",
    "tensor(int16)": "INT16",
    "tensor(int32)": "INT32",
    "tensor(int64)": "INT64",
    "tensor(float16)": "FP16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(bfloat16)": "BF16",
    "tensor(string)": "BYTES",
}
_BFLOAT16 = 16  # ONNX's number of the element type, which NumPy lacks

_SEVERITY_ERROR = 3

# How onnxruntime's allocators report that memory is short: there is no exception type for it.
_OUT_OF_MEMORY = re.compile(r"failed to allocate|out of memory|bad_alloc|BFCArena", re.IGNORECASE)


class OnnxModel(Model):
    """An ONNX file in one inference session."""

    def __init__(self, source: ModelSource, device: DeviceSpec) -> None:
        if all(map(installed_version, ("onnxruntime", "onnxruntime-gpu"))):
            raise refusal(
                source,
                "onnxruntime and onnxruntime-gpu are both installed and overwrite each other: "
                "uninstall both, then install one of them",
            )
        _check_external(source, model_file(source))
        self._source, self._device = source, device
        self._session: Any = _open_session(source, device)
        inputs = tuple(
            input_spec(source, node.name, _DATATYPES.get(node.type), node.shape)
            for node in self._session.get_inputs()
        )
        if not inputs:
            raise refusal(source, "has no inputs")
        types = {node.name: node.type for node in self._session.get_outputs()}
        preferred = () if source.outputs else preferred_output(types)
        self._outputs = preferred or choose_outputs(source, [*types])
        self._maps = ClassMaps(types, self._outputs)
        for name in self._outputs:
            if _DATATYPES.get(types[name]) == "BF16":
                raise refusal(source, f"output {name!r} is BF16: have the model cast it to FP32")
        self._names = [spec.name for spec in inputs]
        self._bf16 = [spec.name for spec in inputs if spec.datatype == "BF16"]
        self._texts = [spec.name for spec in inputs if spec.datatype == "BYTES"]

        def probe(rows: list[Array]) -> dict[str, Array]:
            refuse_texts(source, types, self._outputs)
            return dict(zip(self._outputs, self.predict(rows), strict=True))

        self.signature = probe_signature(source, inputs, probe)
        if labels := self._maps.labels:
            self.signature = replace(
                self.signature, labels=labels, kinds=dict.fromkeys(labels, "probabilities")
            )

    def predict(self, inputs: Sequence[Array]) -> list[Array]:
        """Predict one batch, see `workers.backends.Model.predict`."""
        feeds: dict[str, Any] = dict(zip(self._names, inputs, strict=True))
        for name in self._texts:
            feeds[name] = _decoded(feeds[name])
        try:
            outputs: list[Any] = (
                self._run_bf16(feeds) if self._bf16 else self._session.run(self._outputs, feeds)
            )
        except Exception as failure:
            if _OUT_OF_MEMORY.search(str(failure)):
                raise MemoryError(_message(failure)) from failure
            raise RuntimeError(_message(failure)) from failure
        return self._maps.unpack(outputs)

    def _run_bf16(self, feeds: dict[str, Any]) -> list[Array]:
        """Run with inputs of which some are BF16, given as their bits."""
        make = onnxruntime.OrtValue
        values = {
            name: make.ortvalue_from_numpy_with_onnx_type(array, _BFLOAT16)
            if name in self._bf16
            else make.ortvalue_from_numpy(array)
            for name, array in feeds.items()
        }
        outputs = self._session.run_with_ort_values(self._outputs, values)
        return [output.numpy() for output in outputs]

    def count_work(self) -> Work | None:
        """Count what it does for a row, in a session of its own whose kernels are recorded."""
        inputs = self.signature.inputs
        if any(tensor.symbols for tensor in inputs):
            return None
        own = self._session
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            self._session = _open_session(self._source, self._device, record=folder)
            try:
                self.predict([plain_rows(tensor, PROBE_ROWS) for tensor in inputs])
                events = json.loads(Path(self._session.end_profiling()).read_bytes())
            finally:
                self._session = own
        return count_work(events, PROBE_ROWS)

    def close(self) -> None:
        """Release the session, and with it the weights."""
        self._session = None


def _check_external(source: ModelSource, path: Path) -> None:
    """Raise ModelError unless the model's external weights are where they may be."""
    try:
        missing = next((one for one in external_files(path) if not one.is_file()), None)
    except OnnxFileError as misplaced:
        raise refusal(source, str(misplaced)) from misplaced
    if missing is not None:
        raise refusal(source, f"keeps weights in {missing}, which does not exist")


def _open_session(source: ModelSource, device: DeviceSpec, *, record: str = "") -> Any:
    """Load the file or raise ModelError: a GPU that can't be used is no reason to fall back.

    With a folder, `record`, the session writes there what each of its kernels does.
    """
    onnxruntime.disable_telemetry_events()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _SEVERITY_ERROR
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.intra_op_num_threads = len(device.cores) or 1
    options.inter_op_num_threads = 1
    # Threads that spin while idle would take the cores from the other processes.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if record:
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(record, "kernels"))
    providers: list[Any] = ["CPUExecutionProvider"]
    if device.is_cuda:
        if hasattr(onnxruntime, "preload_dlls"):
            onnxruntime.preload_dlls()
        cuda_options = {"device_id": device.cuda_index}
        if device.virtual:
            # The limit is per session, that is, per instance; the allocation ensures that all fit.
            cuda_options["gpu_mem_limit"] = device.memory_bytes
        providers.insert(0, ("CUDAExecutionProvider", cuda_options))
    try:
        session = onnxruntime.InferenceSession(source.path, options, providers=providers)
    except Exception as failure:
        raise refusal(source, f"onnxruntime can't load it: {_message(failure)}") from failure
    if device.is_cuda and "CUDAExecutionProvider" not in session.get_providers():
        raise refusal(
            source,
            f"onnxruntime can't use {device.name}: install ensembled[gpu] "
            "and a CUDA driver that fits it, or take the device out of the configuration",
        )
    return session


def _decoded(elements: Array) -> Array:
    """Return BYTES as texts, which onnxruntime takes; raise RuntimeError if one is not UTF-8."""
    try:
        texts = [element.decode() for element in elements.ravel().tolist()]
    except UnicodeDecodeError as error:
        raise RuntimeError(f"a text is not UTF-8: {error}") from None
    return np.array(texts, object).reshape(elements.shape)


def _message(failure: BaseException) -> str:
    """Return a message of onnxruntime in one line, without its codes."""
    return re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", one_line(failure))
