"""What requests have changed beyond the configuration file, and the configuration with it.

Runs in the supervisor; pure, except for looking whether files exist. A request and the amendments
before it flow in, new amendments flow out; with these a configuration becomes another one, which is
validated as a whole.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec
from pydantic import ValidationError

from server.config.base import Section
from server.config.ensembles import EnsembleConfig
from server.config.loading import validated
from server.config.members import MemberConfig
from server.config.overrides import Override, read_override
from server.config.problems import describe
from server.config.root import Config
from server.control import (
    ChangeRequest,
    LoadRequest,
    PlaceRequest,
    ReloadRequest,
    RolloutRequest,
    UnloadRequest,
)
from server.errors import ConfigError, did_you_mean
from workers.fetcher.source import FileSource

__all__ = ["Amendments", "Load", "RolloutOutcome", "amend", "amended_by", "with_model"]

_Document = dict[str, Any]
_KINDS: dict[str, type[Section]] = {"members": MemberConfig, "ensembles": EnsembleConfig}


class Load(msgspec.Struct, frozen=True):
    """A model that was loaded by itself.

    Attributes:
        config: its section as JSON, instead of the file's; empty for that.
        directory: which the section's paths are relative to; empty for the configuration's.
    """

    config: str = ""
    directory: str = ""


class RolloutOutcome(msgspec.Struct, frozen=True):
    """How a roll-out ended, or goes on.

    Attributes:
        rollout: its section in the file as JSON; the outcome is of no other roll-out.
        percent: the share of the requests, for the action of that name.
    """

    rollout: str
    action: Literal["promote", "rollback", "percent"]
    percent: float = 0.0


class Amendments(msgspec.Struct, frozen=True):
    """What requests have changed since the configuration was read.

    Attributes:
        loads: by model, those that were loaded by themselves.
        unloads: models of the file that are not served.
        rollouts: by model, the outcome of its roll-out.
        matrix: the allocation (JSON) to serve by; empty for the configuration's.
    """

    loads: dict[str, Load] = {}
    unloads: tuple[str, ...] = ()
    rollouts: dict[str, RolloutOutcome] = {}
    matrix: str = ""


def amend(config: Config, amendments: Amendments) -> Config:
    """Return a configuration as it is with amendments; their matrix has no effect on it.

    Raises:
        ConfigError: if it is not valid.
    """
    if amendments == Amendments(matrix=amendments.matrix):
        return config
    files: dict[Path, FileSource] = {}
    document = _amended(config, amendments, files)
    amended = validated(document, config.path, directory=config.directory, files=files)
    # The command line's overrides.
    kept = {"server": config.server, "allocation": config.allocation}
    return amended.model_copy(update=kept)


def amended_by(config: Config, amendments: Amendments, request: ChangeRequest) -> Amendments:
    """Return what becomes of amendments to a configuration with a request.

    Raises:
        ConfigError: if the request names a model or a roll-out that is not there, or unloads what
            another model needs.
    """
    match request:
        case ReloadRequest():
            kept = {
                model: outcome
                for model, outcome in amendments.rollouts.items()
                if outcome.rollout == _rollout(config.document, model)
            }
            return Amendments(rollouts=kept)
        case PlaceRequest():
            return msgspec.structs.replace(amendments, matrix=request.matrix)
        case RolloutRequest():
            rollout = _rollout(_amended(config, amendments, {}), request.model)
            if not rollout:
                raise ConfigError(f"{request.model}: there is no roll-out of this model")
            own = _rollout(config.document, request.model) or rollout
            outcome = RolloutOutcome(own, request.action, request.percent)
            rollouts = {**amendments.rollouts, request.model: outcome}
            return msgspec.structs.replace(amendments, rollouts=rollouts)
        case LoadRequest():
            return _loaded(config, amendments, request)
        case UnloadRequest():
            return _unloaded(config, amendments, request)


def with_model(
    document: Mapping[str, Any], other: Mapping[str, Any], model: str
) -> Mapping[str, Any]:
    """Return the document of a configuration with a model's section as it is in another one.

    Members of an ensemble that are missing come with it. If the other one has no such model, it
    goes.
    """
    changed = {**document, **{kind: dict(_sections(document, kind)) for kind in _KINDS}}
    missing = {*_members(_section(other, model))}.difference(_names(document))
    for kind in _KINDS:
        there = _sections(other, kind)
        if model not in there:
            changed[kind].pop(model, None)
        changed[kind] |= {name: there[name] for name in {model, *missing} if name in there}
    same = all(changed[kind] == _sections(document, kind) for kind in _KINDS)
    return document if same else changed


def _loaded(config: Config, amendments: Amendments, request: LoadRequest) -> Amendments:
    """Amendments with a model loaded, together with the members that it needs."""
    load = Load(request.config, request.directory)
    if not load.config and not load.directory:
        _check_known(request.model, config.document)
    loads = {**amendments.loads, request.model: load}
    section = _override(request.model, load, config.document, config.directory).section
    needed = {request.model, *_members(section)}
    unloads = tuple(one for one in amendments.unloads if one not in needed)
    return msgspec.structs.replace(amendments, loads=loads, unloads=unloads)


def _unloaded(config: Config, amendments: Amendments, request: UnloadRequest) -> Amendments:
    """Amendments without a model, and the members that no other one needs if these go, too."""
    document = _amended(config, amendments, {})
    _check_known(request.model, document)
    ensembles = {
        name: {*_members(section)}
        for name, section in _sections(document, "ensembles").items()
        if name != request.model
    }
    if users := [name for name, members in ensembles.items() if request.model in members]:
        needing = f"the ensemble {users[0]} needs" if len(users) == 1 else f"{users} need"
        raise ConfigError(f"members.{request.model}: {needing} it: unload that first")
    gone = {request.model}
    if request.dependents:
        members = {*_members(_section(document, request.model))}
        gone |= members.difference(amendments.loads, *ensembles.values())
    if gone.issuperset(_sections(document, "members")):
        raise ConfigError(f"{request.model}: a server serves one member at least, this is the last")
    loads = {name: load for name, load in amendments.loads.items() if name not in gone}
    named = [*_names(config.document)]
    unloads = tuple(name for name in named if name in gone or name in amendments.unloads)
    return msgspec.structs.replace(amendments, loads=loads, unloads=unloads)


def _amended(config: Config, amendments: Amendments, files: dict[Path, FileSource]) -> _Document:
    """The document of a configuration with amendments; sections of requests are validated."""
    document: _Document = copy.deepcopy(dict(config.document))
    for name, outcome in amendments.rollouts.items():
        if outcome.rollout == _rollout(document, name):
            _end_rollout(_section(document, name), outcome)
    for name, load in amendments.loads.items():
        if not load.config and not load.directory:
            continue
        given = _override(name, load, document, config.directory)
        kind = given.kind
        section = _validated_section(f"{kind}.{name}", _KINDS[kind], given, files)
        for one in _KINDS:
            _sections(document, one).pop(name, None)
        document[kind] = {**_sections(document, kind), name: section}
    for name in amendments.unloads:
        for kind in _KINDS:
            _sections(document, kind).pop(name, None)
    return document


def _end_rollout(section: _Document, outcome: RolloutOutcome) -> None:
    """Change a section as the outcome of its roll-out says."""
    if outcome.action == "percent":
        section["rollout"]["percent"] = outcome.percent
        return
    rollout = section.pop("rollout")
    if outcome.action == "rollback":
        gone = str(rollout["version"])
        if "model" in section:
            model = section["model"]
            model["without"] = [*model.get("without", ()), gone]
        else:  # an ensemble
            versions = section["versions"]
            section["versions"] = {key: versions[key] for key in versions if str(key) != gone}


def _validated_section(
    key: str,
    kind: type[Section],
    given: Override,
    files: dict[Path, FileSource],
) -> Section:
    context = {"directory": given.directory, "files": files}
    try:
        return kind.model_validate(given.section, context=context)
    except ValidationError as error:
        raise ConfigError(
            f"{'.'.join([key, *map(str, location)])}: {problem}"
            for location, problem in describe(error)
        ) from None


def _override(name: str, load: Load, document: Mapping[str, Any], directory: Path) -> Override:
    """The section by which a model is loaded."""
    files = Path(load.directory) if load.directory else None
    return read_override(name, load.config, files, _section(document, name), directory)


def _sections(document: Mapping[str, Any], kind: str) -> _Document:
    sections = document.get(kind)
    return sections if isinstance(sections, dict) else {}


def _section(document: Mapping[str, Any], name: str) -> Any:
    """A model's section; None if there is no such model."""
    return next(
        (sections[name] for kind in _KINDS if name in (sections := _sections(document, kind))), None
    )


def _names(document: Mapping[str, Any]) -> Iterator[str]:
    for kind in _KINDS:
        yield from _sections(document, kind)


def _check_known(name: str, document: Mapping[str, Any]) -> None:
    names = [*_names(document)]
    if name not in names:
        raise ConfigError(f"there is no model {name!r}{did_you_mean(name, names)}")


def _members(section: Any) -> Iterator[str]:
    """Yield the members of an ensemble's section, in all of its versions; their own are cut."""
    if isinstance(section, EnsembleConfig):
        section = {"members": section.members}
    if not isinstance(section, dict):
        return
    versions = section.get("versions")
    for one in (section, *(versions.values() if isinstance(versions, dict) else ())):
        members = one.get("members") if isinstance(one, dict) else None
        for member in members if isinstance(members, list | tuple) else ():
            yield str(member).partition("@")[0]


def _rollout(document: Mapping[str, Any], name: str) -> str:
    """The section of a model's roll-out as JSON; empty if there is none."""
    section = _section(document, name)
    rollout = section.get("rollout") if isinstance(section, dict) else None
    return json.dumps(rollout, sort_keys=True, default=str) if rollout else ""
