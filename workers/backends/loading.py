"""Loads a model with its backend, which is imported only then.

Runs in workers, in the combiner for meta-models, and in the children of inspection and profiling.
"""

from __future__ import annotations

from workers.backends.base import Model, refusal
from workers.backends.files import changed_file, linked
from workers.backends.joined import JoinedModel, separate
from workers.runtime.spec import DeviceSpec, ModelSource
from workers.runtime.texts import one_line

__all__ = ["load"]


def load(source: ModelSource, device: DeviceSpec) -> Model:
    """Load a model on a device with the backend of its source.

    Raises:
        ModelError: if the file is missing, damaged, unsafe or not a servable model, or has changed
            since it was stamped and there is no link to what it was, or if the backend's runtime is
            not installed or can't use the device.
    """
    if source.spreads:
        return JoinedModel(load(separate(source), device), source)
    if changed := changed_file(source.stamps):
        if (former := linked(source)) is None:
            raise refusal(source, f"{changed} is not what it was when it was deployed: reload")
        source = former
    try:
        match source.backend:
            case "onnx":
                from workers.backends.onnx import OnnxModel  # noqa: PLC0415

                return OnnxModel(source, device)
            case "torch":
                from workers.backends.torch import TorchModel  # noqa: PLC0415

                return TorchModel(source, device)
            case "python":
                from workers.backends.python import open_python  # noqa: PLC0415

                return open_python(source, device)
            case "fake":
                from workers.backends.fake import FakeModel  # noqa: PLC0415

                return FakeModel(source)
    except ImportError as missing:
        raise refusal(source, f"needs {_needed(source)} ({one_line(missing)})") from missing


def _needed(source: ModelSource) -> str:
    """What a source's backend needs, and how to install it."""
    if source.python is not None:
        extra = source.python.extra
        return f"{extra}: {_install(extra)}" if extra else "a package that is missing"
    if source.backend == "torch":
        return f"torch: {_install('torch')}"
    return f"onnxruntime: {_install('cpu')} or {_install('gpu')}"


def _install(extra: str) -> str:
    return f"pip install 'ensembled[{extra}]'"
