"""Compares copies at lower precision with their members: what they answer, and what they cost.

Runs in the process of the command line. Members, copies and rows flow in, checked copies flow out.
All of them are members of one server, a child process for the length of the predictions, so that
what is compared is what clients would get.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import yaml

from server.calibration.dataset import read_classes, read_numbers
from server.calibration.metrics import Array
from server.calibration.predictions import ask_members
from server.config import Config, load_config
from server.config.relocation import relocated, relocated_members
from server.deployment.devices import find_devices
from server.deployment.placement import place
from server.errors import StartError
from server.inference.dataset import Inputs, read_arrays
from server.members.inspect import InspectedMember, inspect_members
from server.profiling import Measurements, OnProgress, profile_members
from server.variants.checking import Movement, Quality, measure_movement, measure_quality
from server.variants.copies import Copy, copy_sections
from workers.backends.onnx_file import external_files

__all__ = ["CheckedCopy", "Comparison", "Rows"]

#: A good allocation will do for the few rows there are.
_SEARCH_S = 1.0
_DATA = "--data"

#: Numbers of rows.
Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class CheckedCopy:
    """A copy beside its member.

    Attributes:
        copy: that was checked.
        nbytes: sizes of both model files, the member's first.
        movement: of its predictions.
        quality: of both, the member's first; None without `y`.
        rows_per_s: by kind of device, the most of both, the member's first.
        reason: why it is not offered, empty if it is.
    """

    copy: Copy
    nbytes: tuple[int, int]
    movement: Movement
    quality: tuple[Quality, Quality] | None
    rows_per_s: Mapping[str, tuple[float, float]]
    reason: str = ""

    @property
    def is_offered(self) -> bool:
        """Whether it may answer in its member's place."""
        return not self.reason


@dataclass(frozen=True)
class Comparison:
    """What copies and members are compared on.

    Attributes:
        config: with the members, whose files are on this machine.
        directory: where temporary files go.
        inputs: the rows, by the clients' names of inputs.
        truth: the file that may tell what is true of them, as `y`, how many rows it has, and the
            numbers of these.
        tolerance: by how much numbers may differ, see `measure_movement`.
        max_disagreement: the largest share of rows that an offered copy answers differently.
    """

    config: Config
    directory: Path
    inputs: Inputs
    truth: tuple[Path, int, Rows]
    tolerance: float
    max_disagreement: float

    def run(
        self,
        members: Sequence[InspectedMember],
        copies: Sequence[Copy],
        left_out: dict[str, str],
        on_profile: OnProgress,
    ) -> list[CheckedCopy]:
        """Measure members and their copies, ask them, and compare; failures go to `left_out`."""
        truths = {member.name: self._y(member) for member in members}
        with tempfile.TemporaryDirectory(dir=self.directory) as directory:
            path = Path(directory, "members.yaml")
            document = self._document(members, copies, path.parent)
            path.write_text(yaml.safe_dump(document), encoding="utf-8")
            config = load_config(path)
            inspected, devices = inspect_members(config), find_devices(config)
            found = profile_members(config, inspected, devices, on_progress=on_profile)
            placed = place(
                config, inspected, devices, profile_s=0.0, found=found, time_limit_s=_SEARCH_S
            )
            matrix = placed.allocation.matrix
            answers = ask_members(path, matrix, [(one, self.inputs) for one in inspected])
        by_name = {one.name: answer for one, answer in zip(inspected, answers, strict=True)}
        checked = []
        for copy in copies:
            before, after = by_name[copy.member.name], by_name[copy.name]
            if isinstance(before, StartError) or isinstance(after, StartError):
                failure = before if isinstance(before, StartError) else after
                left_out[copy.name] = str(failure)
            else:
                checked.append(self._checked(copy, before, after, found, truths[copy.member.name]))
        return checked

    def _document(
        self, members: Sequence[InspectedMember], copies: Sequence[Copy], directory: Path
    ) -> dict[str, Any]:
        """The configuration of members and copies, as it is written into a directory."""
        own = {member.name: self.config.members[member.name] for member in members}
        part = self.config.model_copy(update={"members": own})
        sections = relocated_members(part, directory)
        shared = relocated(self.config, self.config, directory)
        return {
            "members": {**sections, **copy_sections(sections, copies, directory)},
            **{key: shared[key] for key in ("devices", "server") if key in shared},
        }

    def _checked(
        self, copy: Copy, before: Array, after: Array, found: Measurements, y: Array | None
    ) -> CheckedCopy:
        output = copy.member.output
        movement = measure_movement(output, before, after, self.tolerance)
        quality = None
        if y is not None:
            quality = measure_quality(output, before, y), measure_quality(output, after, y)
        share, reason = movement.disagreement.share, ""
        if share > self.max_disagreement:
            reason = f"it answers {share:.2%} differently, more than {self.max_disagreement:.2%}"
        nbytes = _bytes(Path(copy.member.source.path)), _bytes(copy.path)
        return CheckedCopy(copy, nbytes, movement, quality, _rates(copy, found), reason)

    def _y(self, member: InspectedMember) -> Array | None:
        """What is true of the rows, None if nobody says it."""
        data, total, rows = self.truth
        held, shape = read_arrays(_DATA, data), member.prediction.shape
        if "y" not in held:
            return None
        if member.output.gives_classes and len(shape) == 1:
            return read_classes(_DATA, data, total, shape[0], member.labels)[rows]
        if member.output.config.kind == "values":
            return read_numbers(_DATA, data, total, shape)[rows]
        return None


def _bytes(model: Path) -> int:
    return sum(path.stat().st_size for path in (model, *external_files(model)))


def _rates(copy: Copy, found: Measurements) -> dict[str, tuple[float, float]]:
    """The most rows/s of a member and its copy, by the kinds of device where both were measured."""
    rates: dict[str, tuple[float, float]] = {}
    for kind in dict.fromkeys(one.device_kind for one in found.profiles):
        keys = [(copy.member.name, kind), (copy.name, kind)]
        profiles = [found.profiles.of(*key) for key in keys]
        if all(profiles) and not set(keys).intersection(found.estimated):
            own, other = (max(one.rows_per_s for one in each.values()) for each in profiles)
            rates[kind] = own, other
    return rates
