"""Registers the arena as pinned memory, so that copies to and from a GPU are asynchronous.

Runs in the worker of a CUDA device. CUDA's own runtime library is asked through `ctypes`, since
either of torch and onnxruntime may have loaded it.
"""

from __future__ import annotations

import ctypes
import logging
import mmap

from workers.runtime.spec import DeviceSpec

__all__ = ["pin"]

_log = logging.getLogger(__name__)
_LIBRARIES = ("libcudart.so.13", "libcudart.so.12", "libcudart.so")
_PORTABLE = 1


def pin(buffer: mmap.mmap, device: DeviceSpec) -> bool:
    """Pin a mapping for a CUDA device; whether it worked (pageable memory is slower, not wrong).

    Args:
        buffer: the shared memory.
        device: a GPU, with its `environment` set up.
    """
    for name in _LIBRARIES:
        try:
            runtime = ctypes.CDLL(name)
        except OSError:
            continue
        address = ctypes.addressof(ctypes.c_char.from_buffer(buffer))
        status = runtime.cudaSetDevice(device.cuda_index)
        status = status or runtime.cudaHostRegister(
            ctypes.c_void_p(address), ctypes.c_size_t(len(buffer)), ctypes.c_uint(_PORTABLE)
        )
        if status == 0:
            return True
        _log.warning("the arena can't be pinned for %s: CUDA error %d", device.name, status)
        return False
    reason = "CUDA's runtime library is not there"
    _log.warning("the arena can't be pinned for %s: %s", device.name, reason)
    return False
