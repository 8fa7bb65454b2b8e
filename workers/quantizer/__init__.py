"""Makes copies of ONNX models at lower precision, in child processes."""

from workers.quantizer.copies import CopyError, CopyTask, Precision, make_copy

__all__ = ["CopyError", "CopyTask", "Precision", "make_copy"]
