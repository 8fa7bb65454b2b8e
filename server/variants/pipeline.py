"""Variants from beginning to end: copies are made, asked and measured beside their members.

Runs in the process of the command line. A configuration and .npz files flow in, checked copies flow
out. Copies and members predict as members of one server, a child for the length of that, so that
they are compared by what clients would get.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from server.config import Config
from server.config.root import MAX_MEMBERS
from server.errors import ConfigError, did_you_mean
from server.inference.dataset import Inputs, read_inputs
from server.members.files import local_files
from server.members.inspect import InspectedMember, inspect_members
from server.profiling import OnProgress
from server.variants.comparison import CheckedCopy, Comparison, Rows
from server.variants.copies import Copy, make_copies, uncopied
from workers.quantizer import Precision
from workers.runtime.spec import TensorSpec

__all__ = ["VariantFindings", "VariantOptions", "find_variants"]

_DATA, _CALIBRATION = "--data", "--calibration"
_LEAST_ROWS = 20
#: Most rows that ranges are found on: more do not change them much.
_CALIBRATION_ROWS = 256


@dataclass(frozen=True)
class VariantOptions:
    """What is to be made, and what is offered.

    Attributes:
        precisions: of the copies.
        members: whose copies; all members if empty.
        max_disagreement: the largest share of rows that an offered copy answers differently.
        tolerance: by how much numbers may differ, see `measure_movement`.
        calibration: an .npz file of rows to calibrate on; up to half of the data's if absent.
        seed: of the choice of these.
    """

    precisions: Sequence[Precision]
    members: Sequence[str] = ()
    max_disagreement: float = 0.02
    tolerance: float = 0.01
    calibration: Path | None = None
    seed: int = 0


@dataclass(frozen=True)
class VariantFindings:
    """All copies that could be checked, and by member or copy why others could not.

    `calibration_rows` and `checked_rows` have no row in common.
    """

    checked: Sequence[CheckedCopy]
    left_out: Mapping[str, str]
    calibration_rows: int
    checked_rows: int


@dataclass
class _Job:
    """What is being worked on: the files of `config` are on this machine."""

    config: Config
    data: Path
    options: VariantOptions
    directory: Path
    on_progress: Callable[[str], None]
    on_profile: OnProgress
    left_out: dict[str, str] = field(default_factory=dict)
    rows: tuple[int, int] = (0, 0)


def find_variants(
    config: Config,
    data: Path,
    options: VariantOptions,
    directory: Path,
    *,
    on_progress: Callable[[str], None] = lambda what: None,
    on_profile: OnProgress = lambda what, done, total: None,
) -> VariantFindings:
    """Make copies of members at lower precision in a directory, and check them.

    Args:
        config: with the members.
        data: an .npz file of inputs and, perhaps, what is true of them, `y`.
        options: what is made and offered.
        directory: of the copies.
        on_progress: told what is being done.
        on_profile: told the progress of profiling.

    Raises:
        ConfigError: if an option, the configuration or a file is wrong.
        StartError: if a member can't run.
    """
    config = local_files(_plain(config, options.members))
    job = _Job(config, data, options, directory, on_progress, on_profile)
    groups: defaultdict[object, list[InspectedMember]] = defaultdict(list)
    for member in inspect_members(config):
        if reason := uncopied(member):
            job.left_out[member.name] = reason
        else:
            groups[member.input_key].append(member)
    checked: list[CheckedCopy] = []
    for members in groups.values():
        checked += _of_group(job, members)
    return VariantFindings(checked, job.left_out, *job.rows)


def _plain(config: Config, names: Sequence[str]) -> Config:
    """Return the configuration with some members or all of them, without variants."""
    for name in names:
        if name not in config.members:
            hint = did_you_mean(name, config.members)
            raise ConfigError(f"--member: there is no member {name!r}{hint}")
    update = {"variants": {}, "may_differ": 0.0, "rollout": None, "validation": None}
    members = {
        name: member.model_copy(update=update)
        for name, member in config.members.items()
        if not names or name in names
    }
    return config.model_copy(update={"members": members, "ensembles": {}})


def _of_group(job: _Job, members: Sequence[InspectedMember]) -> list[CheckedCopy]:
    """Make and check the copies of members whose clients send the same."""
    options = job.options
    wanted = [one.pixels for one in members[0].inputs]
    total, calibration, inputs, rows = _read(job, wanted)
    job.rows = _length(calibration), len(rows)
    copies: list[Copy] = []
    for member in members:
        job.on_progress(f"making copies of {member.name}")
        copies += make_copies(member, calibration, options.precisions, job.directory, job.left_out)
    most = MAX_MEMBERS // (1 + len(options.precisions))
    found = []
    for start in range(0, len(members), most):
        part = members[start : start + most]
        if own := [copy for copy in copies if copy.member in part]:
            job.on_progress(f"comparing {len(own)} copies with their members")
            comparison = Comparison(
                config=job.config,
                directory=job.directory,
                inputs=inputs,
                truth=(job.data, total, rows),
                tolerance=options.tolerance,
                max_disagreement=options.max_disagreement,
            )
            found += comparison.run(part, own, job.left_out, job.on_profile)
    return found


def _read(job: _Job, wanted: Sequence[TensorSpec]) -> tuple[int, Inputs, Inputs, Rows]:
    """Return how many rows there are, those to calibrate and to check on, the latter's numbers."""
    inputs = read_inputs(_DATA, job.data, wanted)
    total = _length(inputs)
    if job.options.calibration is not None:
        calibration = read_inputs(_CALIBRATION, job.options.calibration, wanted)
        return total, calibration, inputs, np.arange(total)
    if total < _LEAST_ROWS:
        raise ConfigError(
            f"{_DATA}: {total} rows are too few to calibrate on some and check on others, give "
            f"at least {_LEAST_ROWS}, or others with {_CALIBRATION}"
        )
    order = np.random.default_rng(job.options.seed).permutation(total)
    chosen = min(total // 2, _CALIBRATION_ROWS)
    parts = order[:chosen], np.sort(order[chosen:])
    first, second = ({name: one[part] for name, one in inputs.items()} for part in parts)
    return total, first, second, parts[1]


def _length(inputs: Inputs) -> int:
    return len(next(iter(inputs.values())))
