"""The message classes of ``open_inference.proto``, in a descriptor pool of their own; pure.

Used in the front-end. Other packages (Triton's and KServe's clients) register the same symbols in
protobuf's default pool, where nobody may register them twice: so nothing of ours goes there.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

__all__ = [
    "DESCRIPTORS",
    "METHODS",
    "PACKAGE",
    "SERVICE",
    "message_class",
]

#: What ``make proto`` compiles ``open_inference.proto`` to: a FileDescriptorSet.
DESCRIPTORS: Final = Path(__file__).with_name("open_inference.binpb")
PACKAGE: Final = "inference"
SERVICE: Final = f"{PACKAGE}.GRPCInferenceService"


def _load() -> descriptor_pool.DescriptorPool:
    pool = descriptor_pool.DescriptorPool()
    for file in descriptor_pb2.FileDescriptorSet.FromString(DESCRIPTORS.read_bytes()).file:
        pool.AddSerializedFile(file.SerializeToString())
    return pool


_pool = _load()
#: Names of the service's methods.
METHODS: Final = frozenset(_pool.FindServiceByName(SERVICE).methods_by_name)


def message_class(name: str) -> Any:
    """The class of a message, by its name in the .proto, e.g. "ModelInferRequest".

    Raises:
        KeyError: if there is none of this name.
    """
    return message_factory.GetMessageClass(_pool.FindMessageTypeByName(f"{PACKAGE}.{name}"))
