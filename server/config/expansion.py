"""Replaces members and ensembles with versions by one for each version that is served.

Runs in the process that reads the configuration file, right after reading it: a configuration flows
in, one without versions flows out, in which they are called ``NAME@VERSION``. Directories of
versions are listed anew each time; nothing is remembered.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from server.config.directories import find_model, find_versions
from server.config.ensembles import EnsembleConfig
from server.config.members import MemberConfig
from server.config.root import MAX_MEMBERS, Config
from server.config.versions import VersionConfig, VersionsConfig
from server.errors import ConfigError, did_you_mean
from server.versions import internal_name, public_name

__all__ = ["default_names", "expand"]


def expand(config: Config) -> Config:
    """Return a configuration whose members and ensembles have no versions, as it is to be served.

    Members in ensembles are those that are meant by their names, the newest served version of
    each that is not under roll-out, or the one that is named.

    Raises:
        ConfigError: if a version is named that is not there, a directory has no model for one, or
            a version contradicts the other keys of its member.
    """
    problems: list[str] = []
    members: dict[str, MemberConfig] = {}
    for name, member in config.members.items():
        if isinstance(member.model, VersionsConfig):
            members |= _expand_member(name, member, member.model, problems)
        else:
            members[name] = member
    if len(members) > MAX_MEMBERS and not problems:
        problems.append(
            f"members: {len(members)} with all of their versions, {MAX_MEMBERS} are the most"
        )
    if problems:  # what ensembles say of these members would only repeat them
        raise ConfigError(problems)
    ensembles = dict(_expand_ensembles(config, members, problems))
    if problems:
        raise ConfigError(problems)
    return config.model_copy(update={"members": members, "ensembles": ensembles})


def default_names(config: Config) -> dict[str, str]:
    """Return what the models of an expanded configuration are called inside, by public name.

    Of several versions it is the newest that is not under roll-out.
    """
    return {**_defaults(config.ensembles), **_defaults(config.members)}


def _defaults(
    sections: Mapping[str, MemberConfig] | Mapping[str, EnsembleConfig],
) -> dict[str, str]:
    newest: dict[str, str] = {}
    for internal, section in sections.items():
        name, version = public_name(internal)
        if section.rollout is not None and section.rollout.version == version:
            continue
        if name not in newest or int(version) > int(public_name(newest[name]).version):
            newest[name] = internal
    return newest


def _expand_member(
    name: str, member: MemberConfig, model: VersionsConfig, problems: list[str]
) -> dict[str, MemberConfig]:
    """Return the versions of a member that are served, under the server's names."""
    key = f"members.{name}.model"
    try:
        there: Mapping[str, Any]
        there = (
            find_versions(model.versions) if isinstance(model.versions, Path) else model.versions
        )
        served = model.choose(there)
    except (ValueError, OSError) as error:
        problems.append(f"{key}: {error}")
        return {}
    problems += _rollout_problems(f"members.{name}", member, served)
    found: dict[str, MemberConfig] = {}
    told: dict[str, str] = {}
    for version in served:
        try:
            one = member.model_copy(update=_own_keys(model, there[version]))
            one.check()
            found[internal_name(name, version)] = one
        except (ValueError, OSError) as error:
            told.setdefault(str(error), f"{key}.versions.{version}: {error}")
    problems += told.values()  # what is wrong with all of them is told once
    return found


def _own_keys(model: VersionsConfig, version: Any) -> dict[str, Any]:
    """Return what is different for a version, which is a folder, a model, or a section."""
    if isinstance(model.versions, Path):
        return {"model": find_model(version, model.file)}
    if isinstance(version, VersionConfig):
        return {key: value for key, value in version if value is not None}
    return {"model": version}


def _expand_ensembles(
    config: Config, members: Mapping[str, MemberConfig], problems: list[str]
) -> Iterator[tuple[str, EnsembleConfig]]:
    """Yield the ensembles under the server's names, with the server's names of their members."""
    default = _defaults(members)
    for name, ensemble in config.ensembles.items():
        if ensemble.versions:
            problems += _rollout_problems(f"ensembles.{name}", ensemble, ensemble.versions)
        for key, section in ensemble.sections.items():
            internal = internal_name(name, key.rpartition(".")[2]) if key else name
            try:
                resolved = _with_members(section, members, default)
            except ValueError as error:
                problems.append(f"ensembles.{name}{key}.members: {error}")
                continue
            if key:
                resolved = resolved.model_copy(
                    update={
                        "rollout": ensemble.rollout,
                        "validation": resolved.validation or ensemble.validation,
                    }
                )
            yield internal, resolved


def _with_members(
    section: EnsembleConfig, members: Mapping[str, MemberConfig], default: Mapping[str, str]
) -> EnsembleConfig:
    """Return an ensemble with the server's names of its members.

    Raises:
        ValueError: if one of them is not served, or two names mean the same.
    """
    internal: dict[str, str] = {}
    for name in section.members:
        found = _find_member(name, members, default)
        if twin := next((one for one, other in internal.items() if other == found), None):
            raise ValueError(f"{twin!r} and {name!r} are the same version")
        internal[name] = found
    update: dict[str, object] = {"members": tuple(internal.values())}
    if section.cascade is not None:
        update["cascade"] = tuple(
            tuple(internal[one] for one in stage) for stage in section.cascade
        )
    return section.model_copy(update=update)


def _find_member(name: str, members: Mapping[str, MemberConfig], default: Mapping[str, str]) -> str:
    """Return what the server calls a member that an ensemble names, with its version or without."""
    wanted = public_name(name)
    if wanted.name not in default:
        raise ValueError(f"unknown member {name!r}{did_you_mean(wanted.name, default)}")
    if name == wanted.name:
        return default[name]
    served = {version: one for one in members if (version := _version_of(one, wanted.name))}
    if wanted.version not in served:
        raise ValueError(
            f"version {wanted.version} of {wanted.name!r} is not served, the versions are "
            f"{', '.join(served)}"
        )
    return served[wanted.version]


def _version_of(internal: str, name: str) -> str:
    """The version of a member with this public name, empty for any other member."""
    public = public_name(internal)
    return public.version if public.name == name else ""


def _rollout_problems(
    key: str, section: MemberConfig | EnsembleConfig, served: Collection[str]
) -> Iterator[str]:
    rollout = section.rollout
    if rollout is not None and rollout.version not in served:
        yield (
            f"{key}.rollout.version: version {rollout.version} is not served, the versions are "
            f"{', '.join(served)}"
        )
    elif rollout is not None and len(served) < 2:
        yield f"{key}.rollout: the present version has to be served, too, beside {rollout.version}"
    elif rollout is not None and rollout.version != (newest := max(served, key=int)):
        yield (
            f"{key}.rollout.version: should be the newest version served, {newest}, which would "
            "answer by default once the roll-out is over"
        )
