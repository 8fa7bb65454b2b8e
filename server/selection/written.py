"""A point of a selection as what `ensembled serve` takes: a configuration, and an allocation.

Runs in the process of the command line; pure, but for looking where modules are. A point flows in,
the texts of two files flow out; the second lies beside the first, which names it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from server.config import Config, ServerConfig
from server.config.relocation import relocated, relocated_members
from server.deployment.report import result_document
from server.selection.library import with_members
from server.selection.pipeline import LibrarySelection
from server.selection.points import Candidate, Point

__all__ = ["allocation_path", "point_files"]

_ENSEMBLE = "selected"


def allocation_path(output: Path) -> Path:
    """Return where the allocation of a configuration is written: beside it."""
    return output.with_name(f"{output.stem}.allocation.json")


def point_files(found: LibrarySelection, point: Point, how: str, output: Path) -> dict[Path, str]:
    """Return the content of a point's configuration and of its allocation, by path.

    The allocation is first, so that it is there before a configuration names it.

    Args:
        found: the selection that it is of.
        point: one of its points.
        how: what it was picked as, for the comment.
        output: the path of the configuration.
    """
    comment = "".join(f"# {line}\n" for line in _origin(found, point, how))
    document = _document(found, point.candidate, output)
    text = yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=100)
    allocation = result_document(point.cost.allocation)
    return {allocation_path(output): f"{allocation}\n", output: comment + text}


def _document(found: LibrarySelection, candidate: Candidate, output: Path) -> dict[str, Any]:
    config, directory = found.library.config, output.absolute().parent
    members = {name: config.members[name] for name in candidate.members}
    document: dict[str, Any] = {
        "ensembles": {_free_name(members): _ensemble(candidate)},
        "members": relocated_members(with_members(config, members), directory),
    }
    others = found.library.document
    if found.request.pool.devices is None and "devices" in others:
        document["devices"] = others["devices"]
    document["allocation"] = allocation_path(output).name
    if placement := {
        key: value
        for key, value in (others.get("placement") or {}).items()
        if not key.startswith("follow")  # an allocation from a file stays as it is
    }:
        document["placement"] = placement
    if "server" in others:
        document["server"] = _server(config, others["server"], directory)
    return document


def _ensemble(candidate: Candidate) -> dict[str, Any]:
    section: dict[str, Any] = {"members": [*candidate.members]}
    if len(set(candidate.weights)) > 1:
        pairs = zip(candidate.members, candidate.weights, strict=True)
        weights = {name: float(f"{weight:.6g}") for name, weight in pairs}
        section |= {"rule": "weighted_mean", "weights": weights}
    if candidate.cascade is not None:
        section["cascade"] = [[*stage] for stage in candidate.cascade.stages]
        section["confidence"] = [*candidate.cascade.confidence]
    return section


def _free_name(members: Any) -> str:
    name = _ENSEMBLE
    while name in members:
        name += "-ensemble"
    return name


def _server(config: Config, given: Any, directory: Path) -> dict[str, Any]:
    """The section `server` as it was written, without the environment's overrides."""
    context = {"directory": config.directory, "files": config.files}
    return relocated(ServerConfig.model_validate(given or {}, context=context), config, directory)


def _origin(found: LibrarySelection, point: Point, how: str) -> Iterator[str]:
    selection, request, cost = found.selection, found.request, point.cost
    low, high = point.quality_interval
    yield f"Picked by `ensembled select` from {found.library.path.name}: {how}."
    yield (
        f"{selection.measure} {point.quality:.4g} [{low:.4g}, {high:.4g}] on {selection.judged_on} "
        f"rows that nothing was chosen by;"
    )
    gap = "" if cost.gap is None else f" (at most {cost.gap:.1%} below the best allocation)"
    yield f"{cost.rows_per_s:,.4g} rows/s expected{gap}."
    data = request.data.name
    yield f"Searched on {selection.selected_on} rows of {data}, seed {request.options.seed}."
    if request.pool.devices is not None:
        yield "The allocation is for the devices of a file: serve it where these exist."
