"""Loads a model with its backend, which is imported only then.

Runs in workers, in the combiner for meta-models, and in the children of inspection and profiling.
"""

from __future__ import annotations

from workers.backends.base import Model, one_line, refusal
from workers.runtime.spec import DeviceSpec, ModelSource

__all__ = ["load"]


def load(source: ModelSource, device: DeviceSpec) -> Model:
    """Load a model on a device with the backend of its source.

    Raises:
        ModelError: if the file is missing, damaged, unsafe or not a servable model, or if the
            backend's runtime is not installed or can't use the device.
    """
    try:
        match source.backend:
            case "onnx":
                from workers.backends.onnx import OnnxModel  # noqa: PLC0415

                return OnnxModel(source, device)
            case "torch":
                from workers.backends.torch import TorchModel  # noqa: PLC0415

                return TorchModel(source, device)
            case "fake":
                from workers.backends.fake import FakeModel  # noqa: PLC0415

                return FakeModel(source)
    except ImportError as missing:
        fix = "onnxruntime: install ensembled[cpu] or ensembled[gpu]"
        if source.backend == "torch":
            fix = "torch: install ensembled[torch]"
        raise refusal(source, f"needs {fix} ({one_line(missing)})") from missing
