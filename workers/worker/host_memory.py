"""Tunes a worker's memory: huge pages for its members, pinned memory for arenas, none unused.

Runs in the worker and in the profiler's child. Huge pages: a network walks through tens of
megabytes per batch, and with pages of 4 KiB the TLB covers a fraction of them. Runtimes don't ask
for huge pages, and where the kernel's setting is `madvise` they get none. Three EfficientNets took
2% less CPU time with them, in two processes that alternated on one core. Pinned memory makes copies
to and from a GPU asynchronous; CUDA's runtime library is called through `ctypes`, since either of
torch and onnxruntime may have loaded it.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import logging
import mmap
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from workers.runtime.spec import DeviceSpec

__all__ = [
    "HUGE_PAGE_BYTES",
    "pin_for_device",
    "private_ranges",
    "release_memory",
    "unpin",
    "use_huge_pages",
]

_log = logging.getLogger(__name__)

#: Of x86-64, and of ARM64 with pages of 4 KiB.
HUGE_PAGE_BYTES = 2 << 20
#: `madvise` since Linux 6.1: collapse the range into huge pages now, not at some later time.
_MADV_COLLAPSE = 25
_SETTING = Path("/sys/kernel/mm/transparent_hugepage/enabled")
_MAPS = Path("/proc/self/maps")

_CUDA_LIBRARIES = ("libcudart.so.13", "libcudart.so.12", "libcudart.so")
_CUDA_PORTABLE = 1


def use_huge_pages() -> int:
    """Move this process's private memory to huge pages, where the kernel can.

    To be called once a member is warm, with its weights and activations allocated. Nothing changes
    where huge pages are unsupported or disabled (`transparent_hugepage/enabled` is `never`).
    Returns how many bytes are on huge pages now, as far as the kernel says so.
    """
    try:
        if "[never]" in _SETTING.read_text():
            return 0
        ranges = list(private_ranges(_MAPS.read_text().splitlines()))
    except OSError:  # not Linux, or a kernel without huge pages
        return 0
    advise = ctypes.CDLL(None).madvise
    advise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    # Fails on pages that can't be moved, and on old kernels, which don't know this advice.
    return sum(size for start, size in ranges if advise(start, size, _MADV_COLLAPSE) == 0)


def private_ranges(maps: Iterable[str]) -> Iterator[tuple[int, int]]:
    """Yield address and size, in bytes, of whole huge pages in writable memory without a file.

    `maps` are the lines of `/proc/PID/maps`.
    """
    for line in maps:
        addresses, access, _, _, _, *name = line.split()
        if access != "rw-p" or name not in ([], ["[heap]"]):
            continue
        first, end = (int(one, 16) for one in addresses.split("-"))
        start = -(-first // HUGE_PAGE_BYTES) * HUGE_PAGE_BYTES
        size = end // HUGE_PAGE_BYTES * HUGE_PAGE_BYTES - start
        if size > 0:
            yield start, size


def pin_for_device(buffer: mmap.mmap, device: DeviceSpec) -> bool:
    """Pin a mapping if the device is a GPU; return whether it is pinned.

    A failure is logged: pageable memory is only slower. The device's `environment` must be set.
    """
    if not device.is_cuda:
        return False
    reason = "there is no CUDA runtime library"
    if (cuda := _cuda()) is not None:
        status = cuda.cudaSetDevice(device.cuda_index)
        status = status or cuda.cudaHostRegister(
            _address(buffer), ctypes.c_size_t(len(buffer)), ctypes.c_uint(_CUDA_PORTABLE)
        )
        if status == 0:
            return True
        reason = f"CUDA error {status}"
    _log.warning("the arena can't be pinned for %s: %s", device.name, reason)
    return False


def unpin(buffer: mmap.mmap) -> None:
    """Undo what `pin_for_device` did, before a mapping goes."""
    if (cuda := _cuda()) is not None:
        cuda.cudaHostUnregister(_address(buffer))


def _cuda() -> ctypes.CDLL | None:
    for name in _CUDA_LIBRARIES:
        with contextlib.suppress(OSError):
            return ctypes.CDLL(name)
    return None


def _address(buffer: mmap.mmap) -> ctypes.c_void_p:
    return ctypes.c_void_p(ctypes.addressof(ctypes.c_char.from_buffer(buffer)))


def release_memory() -> None:
    """Return freed memory to the system and the driver, as far as the runtimes can.

    Collecting garbage takes 0.1 s in a process that has imported torch.
    """
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    with contextlib.suppress(OSError, AttributeError):  # not glibc
        ctypes.CDLL(None).malloc_trim(0)
