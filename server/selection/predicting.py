"""Has each member of a library predict data once: from the cache, or by a server of its own.

Runs in the process of the command line. Members and an .npz file flow in, predictions by member
flow out, and why some could not predict. What was predicted is cached under all that it depends
on: the model's content, the member's section, the inputs, the versions of what runs the model.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import msgspec
import numpy as np
import yaml

from server.calibration.metrics import Array
from server.calibration.predictions import ask_members, check_probabilities
from server.config import Config, PlacementConfig
from server.config.relocation import relocated_members
from server.config.root import MAX_MEMBERS
from server.deployment.devices import find_devices
from server.deployment.placement import place
from server.errors import ConfigError, StartError
from server.inference.dataset import Inputs, read_inputs
from server.members.inspect import InspectedMember
from server.profiling import OnProgress
from server.profiling.cache import content_digest
from server.selection.agreement import Agreed
from server.selection.isolation import isolated, reason
from server.selection.library import with_members
from workers.backends.base import installed_version
from workers.backends.files import model_files, runtimes
from workers.runtime.cache import cache_part, write_atomically

__all__ = ["predict_library"]

#: Part of every fingerprint: raise it when what is predicted, or how, changes.
_REVISION = 1
#: A good allocation will do for the few rows there are.
_SEARCH_S = 1.0


def predict_library(
    config: Config,
    agreed: Agreed,
    option: str,
    data: Path,
    left_out: dict[str, str],
    *,
    on_progress: OnProgress = lambda what, done, total: None,
) -> dict[str, Array]:
    """Return what members predict for the inputs in an .npz file, [rows, *own shape], by member.

    Those that can't predict them are added to `left_out`.

    Args:
        config: of the library; its files are on this machine.
        agreed: the members to ask.
        option: that names the file, for messages.
        data: the file.
        left_out: by member, why it can't be used.
        on_progress: told how many members have predicted.

    Raises:
        ConfigError: if the file can't be read, or is for none of the members.
    """
    asked = {member.name: member for member in agreed.members}
    inputs = _read_inputs(option, data, agreed, left_out)
    prints = {name: _fingerprint(asked[name], given) for name, given in inputs.items()}
    found = {name: known for name in inputs if (known := _load(prints[name])) is not None}
    missing = [name for name in inputs if name not in found]
    total, done = len(missing), 0

    def on_answer(member: InspectedMember) -> None:
        nonlocal done
        done += 1
        on_progress(member.name, min(done, total), total)

    def predict(names: Sequence[str]) -> dict[str, Array | StartError]:
        questions = [(asked[name], inputs[name].arrays) for name in names]
        return dict(zip(names, _serve(config, questions, on_answer), strict=True))

    for start in range(0, total, MAX_MEMBERS):
        on_progress("starting a server", start, total)
        group = missing[start : start + MAX_MEMBERS]
        for name, answer in isolated(group, predict, left_out).items():
            if isinstance(answer, StartError):
                left_out[name] = reason(name, answer)
                continue
            found[name] = answer
            _store(prints[name], answer)
    return {
        name: found[name]
        for name in asked
        if name in found and _is_usable(agreed, name, found[name], left_out)
    }


@dataclass(frozen=True)
class _Given:
    """The inputs of some members, and a hash of them."""

    arrays: Inputs
    digest: str


def _read_inputs(
    option: str, data: Path, agreed: Agreed, left_out: dict[str, str]
) -> dict[str, _Given]:
    """Return the inputs by member, read once for those that take the same."""
    read: dict[object, _Given | ConfigError] = {}
    found: dict[str, _Given] = {}
    for member in agreed.members:
        key = member.input_key
        if key not in read:
            try:
                arrays = read_inputs(option, data, [one.pixels for one in member.inputs])
                read[key] = _Given(arrays, _inputs_digest(arrays))
            except ConfigError as error:
                read[key] = error
        given = read[key]
        if isinstance(given, _Given):
            found[member.name] = given
        else:
            left_out[member.name] = given.message
    if not found:
        raise next(one for one in read.values() if isinstance(one, ConfigError))
    return found


def _inputs_digest(inputs: Inputs) -> str:
    digest = hashlib.sha256()
    for name, array in sorted(inputs.items()):
        digest.update(msgspec.json.encode([name, str(array.dtype), array.shape]))
        if array.dtype == object:  # texts
            digest.update(msgspec.msgpack.encode(array.tolist()))
        else:
            digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _fingerprint(member: InspectedMember, given: _Given) -> str | None:
    """A hash of all that a member's predictions depend on; None for what may depend on more."""
    source = member.source
    if source.is_users_code or source.backend == "fake":
        return None
    try:
        content = [content_digest(path) for path in model_files(source)]
    except OSError:
        return None
    own = msgspec.structs.replace(source, member="", path="", stamps=(), links="")
    section = member.config.model_dump(mode="json", exclude={"model", "batch_size"})
    versions = [installed_version(one) for one in (*runtimes(source), "numpy")]
    key = [_REVISION, content, own, section, versions, given.digest]
    return hashlib.sha256(msgspec.json.encode(key)).hexdigest()


def _load(fingerprint: str | None) -> Array | None:
    if fingerprint is None:
        return None
    try:
        loaded: Array = np.load(_file(fingerprint), allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return loaded


def _store(fingerprint: str | None, predictions: Array) -> None:
    """Store predictions; a failure is ignored."""
    if fingerprint is not None:
        content = BytesIO()
        np.save(content, predictions, allow_pickle=False)
        with suppress(OSError):  # with a full disk the next run predicts again, no more
            write_atomically(_file(fingerprint), content.getvalue())


def _file(fingerprint: str) -> Path:
    return cache_part("predictions") / f"{fingerprint}.npy"


def _serve(
    config: Config,
    questions: Sequence[tuple[InspectedMember, Inputs]],
    on_answer: Callable[[InspectedMember], None],
) -> list[Array | StartError]:
    """Have some members predict, by a server for them.

    Raises:
        ConfigError: if they don't fit the memory together.
        StartError: if the server does not start.
    """
    members = [member for member, _ in questions]
    alone = with_members(config, {member.name: member.config for member in members})
    served = alone.model_copy(update={"placement": PlacementConfig(spare_memory="leave")})
    placement = place(served, members, find_devices(served), profile_s=0.0, time_limit_s=_SEARCH_S)
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "library.yaml"
        path.write_text(
            yaml.safe_dump(_document(served, path.parent), sort_keys=False), encoding="utf-8"
        )
        return ask_members(path, placement.allocation.matrix, questions, on_answer)


def _document(config: Config, directory: Path) -> dict[str, object]:
    """The configuration of a server for predictions."""
    document: dict[str, object] = {"members": relocated_members(config, directory)}
    if config.devices != "auto":
        document["devices"] = [one.model_dump(mode="json", exclude_unset=True)
                               for one in config.devices]  # fmt: skip
    if config.server.arena_bytes:
        document["server"] = {"arena_bytes": config.server.arena_bytes}
    return document


def _is_usable(agreed: Agreed, name: str, answer: Array, left_out: dict[str, str]) -> bool:
    if agreed.kind != "classes":
        return True
    try:
        check_probabilities(name, answer)
    except ConfigError as error:
        left_out[name] = error.message.removeprefix(f"members.{name}.")
        return False
    return True
