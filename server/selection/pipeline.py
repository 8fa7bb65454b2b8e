"""A selection from beginning to end: a library is read, predicts, is profiled, and searched.

Runs in the process of the command line. The path of a library, data and options flow in, a
`LibrarySelection` flows out. Members that fail on the way are left out, each with its reason.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from allocator.problem import Problem
from server.calibration.dataset import read_classes, read_numbers
from server.calibration.metrics import Array, Floats
from server.calibration.target import align
from server.config import Config, MemberConfig
from server.errors import ConfigError
from server.inference.dataset import read_arrays
from server.members.files import local_files
from server.members.inspect import InspectedMember, inspect_members
from server.profiling import OnProgress
from server.selection.agreement import Agreed, agree, nobody_left
from server.selection.costing import Pool, library_problem
from server.selection.isolation import isolated
from server.selection.library import Library, read_library, with_members
from server.selection.points import Selection
from server.selection.predicting import predict_library
from server.selection.quality import Measure, find_measure
from server.selection.search import SelectOptions, select

__all__ = ["LibrarySelection", "SelectRequest", "select_from_library"]

#: Shows the progress of what is being done.
ShowProgress = Callable[[str], AbstractContextManager[OnProgress]]


@dataclass(frozen=True, kw_only=True)
class SelectRequest:
    """What to select from, and for what.

    Attributes:
        library: see `server.selection.library`.
        data: inputs and `y` (.npz) to select on; `test`, if given, to judge on.
        pool: the devices, and what members cost there.
        measure: of quality; None for accuracy, or the RMSE of numbers.
        options: of the search; its measure and test are those of the request.
    """

    library: Path
    data: Path
    test: Path | None = None
    pool: Pool = Pool()
    measure: str | None = None
    options: SelectOptions = SelectOptions()


@dataclass(frozen=True)
class LibrarySelection:
    """What was found, and what the configuration of a point needs."""

    request: SelectRequest
    library: Library
    problem: Problem
    selection: Selection


def select_from_library(request: SelectRequest, show_progress: ShowProgress) -> LibrarySelection:
    """Find the ensembles of a library that are worth serving.

    Raises:
        ConfigError: if the library, a file or an option is wrong, no member can be used, or no
            ensemble satisfies the constraints.
    """
    _check_files(request)
    library = read_library(request.library)
    left_out = dict(library.left_out)
    measure = _measure(request, library)
    config, agreed = _inspect(library, left_out)
    asked = {"--data": request.data, **({"--test": request.test} if request.test else {})}
    answers: dict[str, dict[str, Array]] = {}
    for option, path in asked.items():
        with show_progress("predicting") as on_progress:
            found = predict_library(config, agreed, option, path, left_out, on_progress=on_progress)
        answers[option] = found
        agreed = _only(config, agreed, found, left_out)
    data = {option: _labelled(agreed, option, path, answers[option])
            for option, path in asked.items()}  # fmt: skip
    with show_progress("profiling") as on_progress:
        problem = library_problem(
            config,
            agreed.members,
            request.pool,
            left_out,
            energy=request.options.asks_energy,
            on_progress=on_progress,
        )
    placed = [i for i, member in enumerate(agreed.members) if member.name in problem.members]
    (predictions, y), *tests = [(p[placed], y) for p, y in data.values()]
    options = replace(
        request.options,
        measure=measure or find_measure("accuracy" if agreed.kind == "classes" else "rmse"),
        test=tests[0] if tests else None,
    )
    with show_progress("selecting") as on_progress:
        selection = select(predictions, y, problem, replace(options, on_progress=on_progress))
    selection = replace(
        selection,
        left_out={**left_out, **selection.left_out},
        notes=(*selection.notes, *_notes(request, config)),
    )
    return LibrarySelection(request, library, problem, selection)


def _check_files(request: SelectRequest) -> None:
    """Find the mistakes that cost nothing to find before models are loaded."""
    for option, path in (("--data", request.data), ("--test", request.test)):
        if path is not None and "y" not in read_arrays(f"{option} {path}", path):
            raise ConfigError(
                f"{option} {path}: has no y, the class (or the true numbers) of each row"
            )


def _notes(request: SelectRequest, config: Config) -> Iterator[str]:
    threads = config.placement.threads
    if threads != "device" and request.pool.devices is None:
        yield (
            f"placement.threads ({threads}): selection takes each CPU device as one worker; for "
            "what was picked, `ensembled allocate` searches how to divide the cores"
        )


def _measure(request: SelectRequest, library: Library) -> Measure | None:
    if request.measure is None:
        return None
    return find_measure(request.measure, str(library.config.directory.absolute()))


def _inspect(library: Library, left_out: dict[str, str]) -> tuple[Config, Agreed]:
    """Fetch, build and inspect the members; return those that agree, and where their files are."""
    config = library.config

    def fetch(names: Sequence[str]) -> Mapping[str, MemberConfig]:
        return local_files(_part(config, names)).members

    config = with_members(config, isolated(list(config.members), fetch, left_out))

    def inspect(names: Sequence[str]) -> Mapping[str, InspectedMember]:
        return {member.name: member for member in inspect_members(_part(config, names))}

    members = isolated(list(config.members), inspect, left_out)
    return config, agree(config, members, left_out)


def _part(config: Config, names: Sequence[str]) -> Config:
    return with_members(config, {name: config.members[name] for name in names})


def _only(
    config: Config,
    agreed: Agreed,
    names: Sequence[str] | Mapping[str, Array],
    left_out: dict[str, str],
) -> Agreed:
    """Return some of the members, in the same order."""
    members = [member for member in agreed.members if member.name in names]
    if not members:
        raise nobody_left(config, left_out)
    return Agreed.of(members, agreed.kind)


def _labelled(
    agreed: Agreed, option: str, path: Path, answers: Mapping[str, Array]
) -> tuple[Floats, Array]:
    """Return aligned predictions [members, rows, *answer], and what is true of the rows."""
    own = [answers[member.name] for member in agreed.members]
    rows = len(own[0])
    if agreed.kind == "classes":
        predictions = align(agreed.classes, own)
        classes = predictions.shape[2]
        return predictions, read_classes(option, path, rows, classes, agreed.classes.labels)
    shape = agreed.members[0].prediction.shape
    y = read_numbers(option, path, rows, shape)
    return np.stack(own).astype(np.float64), y.reshape(rows, *shape)
