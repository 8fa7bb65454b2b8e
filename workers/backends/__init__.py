"""Backends load a member's model and run batches with it, in workers and in inspection.

A `workers.runtime.spec.ModelSource` and a device go in, a `Model` comes out. Importing this package
imports no inference runtime: only a process with a torch member imports torch.
"""

from workers.backends.base import Model, ModelError
from workers.backends.loading import load

__all__ = ["Model", "ModelError", "load"]
