"""The files of a model: what its weights take, and what its answers depend on.

Runs in the process that inspects or profiles, which loads no model. A `ModelSource` flows in, paths
and bytes flow out.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from pathlib import Path

import msgspec

from workers.backends.onnx_file import OnnxFileError, external_files
from workers.runtime.python_files import module_file, sources
from workers.runtime.spec import FileStamp, ModelSource

__all__ = [
    "changed_file",
    "code_stamps",
    "linked",
    "model_files",
    "runtimes",
    "source_bytes",
    "stamped",
]


def model_files(source: ModelSource) -> list[Path]:
    """Return the files that a model's answers depend on, as far as they can be found.

    Those are its weights, and for a Python class its source with the modules beside it.

    Raises:
        OSError: if one can't be read.
    """
    files = [*_weights(source)]
    if source.python is not None and source.python.directory:
        files += _python_files(source.python.target, source.python.directory)
    return files


def stamped(source: ModelSource) -> ModelSource:
    """Return a source with the stamps of its files; without, if one can't be read."""
    with contextlib.suppress(OSError):
        stamps = [_stamp(path) for path in model_files(source)]
        return msgspec.structs.replace(source, stamps=tuple(stamps))
    return source


def code_stamps(target: str, directory: str) -> tuple[FileStamp, ...]:
    """Return the stamps of the file of a user's object and of the modules beside it.

    Args:
        target: ``package.module:NAME``, or ``FILE.py:NAME`` with an absolute path.
        directory: where modules are looked up after the installed packages.

    Returns:
        Nothing if one of the files can't be found or read.
    """
    with contextlib.suppress(OSError):
        return tuple(_stamp(path) for path in _python_files(target, directory))
    return ()


def changed_file(stamps: Iterable[FileStamp]) -> str:
    """Return the path of a file that is not as it was stamped, empty if there is none."""
    for stamp in stamps:
        try:
            found = _stamp(Path(stamp.path))
        except OSError:
            return stamp.path
        if found != stamp:
            return stamp.path
    return ""


def linked(source: ModelSource) -> ModelSource | None:
    """Return a source that is read from its links, None if these are not what was stamped."""
    python, replace = source.python, msgspec.structs.replace
    stamps = tuple(replace(stamp, path=source.links + stamp.path) for stamp in source.stamps)
    if not source.links or changed_file(stamps):
        return None
    if python is not None and "path" in python.args:  # of an adapter
        args = {**python.args, "path": source.links + python.args["path"]}
        python = replace(python, args=args)
    return replace(source, path=source.links + source.path, python=python, stamps=stamps, links="")


def _stamp(path: Path) -> FileStamp:
    status = path.stat()
    return FileStamp(str(path), status.st_size, status.st_mtime_ns)


def runtimes(source: ModelSource) -> tuple[str, ...]:
    """Return the distributions that run a model, of which some may not be installed."""
    if source.python is not None:
        return source.python.packages or ("torch",)
    return ("torch",) if source.backend == "torch" else ("onnxruntime", "onnxruntime-gpu")


def source_bytes(source: ModelSource) -> int:
    """Return the bytes of a model's weights, 0 if it has no file of them.

    Raises:
        OSError: if a file is missing.
    """
    return sum(path.stat().st_size for path in _weights(source))


def _weights(source: ModelSource) -> list[Path]:
    """The file, or files of the directory, of a model, with the external data of an ONNX model."""
    if source.python is not None and source.python.weights:
        return [Path(source.python.weights)]
    if not source.path:
        return []
    path = Path(source.path)
    if path.is_dir():
        return sorted(one for one in path.rglob("*") if one.is_file())
    return [path, *(_external(path) if source.backend == "onnx" else ())]


def _external(path: Path) -> tuple[Path, ...]:
    try:
        return external_files(path)
    except OnnxFileError:  # found when it is loaded
        return ()


def _python_files(target: str, directory: str) -> list[Path]:
    where = target.rpartition(":")[0]
    file = Path(where) if where.endswith(".py") else module_file(where, Path(directory))
    try:
        return [] if file is None else sources(file)
    except (SyntaxError, ValueError):  # found when it is imported
        return []
