"""`ensembled describe`: what a model takes and gives, and how to ask it.

Runs in the process of the command line. A configuration, whose models are inspected without a
server, or the URL of a server flows in; both give the protocol's documents. Text or JSON flows out.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from ensembled_client import EnsembleClient, EnsembledClientError, UnknownModel

from allocator.matrix import AllocationMatrix
from server.cli.examples import ExampleRequest, TensorInfo
from server.cli.health import local_address
from server.config import Config, default_names, load_config
from server.deployment.devices import arena_budget_bytes
from server.errors import ConfigError, EnsembledError, did_you_mean
from server.inference.metadata import ensemble_config, model_metadata
from server.members.composition import compose
from server.members.files import local_files
from server.members.inspect import inspect_members
from server.members.rules import inspect_rules
from server.stdout import echo
from server.versions import internal_name, split_name

__all__ = ["describe"]

_MAX_LABELS = 10


class Description(msgspec.Struct, frozen=True, kw_only=True):
    """A model, for people.

    Attributes:
        ensemble: members, rule, quorum and the like, as in the model's configuration.
        inputs: what clients send.
        outputs: what an answer has.
        on_request: what else an answer can have.
        labels: of the output's elements, may be empty.
        examples: requests by client.
    """

    model: str
    ensemble: dict[str, Any]
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    on_request: tuple[TensorInfo, ...]
    labels: tuple[str, ...]
    examples: dict[str, str]


def describe(target: str, model: str, *, as_json: bool) -> None:
    """Describe a model of a configuration file or of the server at a URL, on stdout.

    Raises:
        ConfigError: if there is no such model, or the configuration is wrong.
        StartError: if a model can't be inspected.
        EnsembledError: if the server gives no answer.
    """
    is_url = "://" in target
    found = _ask_server(target, model) if is_url else _inspect(load_config(Path(target)), model)
    echo(msgspec.json.encode(found).decode() if as_json else "\n".join(_lines(found)))


def _inspect(config: Config, model: str) -> Description:
    """Describe a model of a configuration, of which nothing is started."""
    version = split_name(model).version
    model = default_names(config).get(model, model)
    if model not in {**config.ensembles, **config.members}:
        raise _unknown(model, [*config.ensembles, *config.members])
    needed = config.ensembles[model].members if model in config.ensembles else (model,)
    config = local_files(
        config.model_copy(
            update={
                "ensembles": {k: v for k, v in config.ensembles.items() if k == model},
                "members": {name: config.members[name] for name in needed},
            }
        )
    )
    members = inspect_members(config)
    composition = compose(
        config,
        members,
        AllocationMatrix(tuple(needed), ("any",), ((1,) * len(needed),)),
        budget_bytes=arena_budget_bytes(config),
        findings=inspect_rules(config, members),
    )
    spec = next(one for one in composition.models if one.served.name == model)
    server = config.server
    return _description(
        model_metadata(spec, [one.version for one in composition.models if one.name == spec.name]),
        {"ensemble": ensemble_config(spec)},
        url=f"http{'s' if server.tls else ''}://{local_address(config)}",
        needs_key=bool(server.api_keys or server.api_keys_file),
        version=version,
    )


def _ask_server(url: str, model: str) -> Description:
    api_key = os.environ.get("ENSEMBLED_API_KEY") or None
    name, version = split_name(model)
    try:
        with EnsembleClient(url, api_key=api_key) as client:
            try:
                metadata, config = client.metadata(name, version), client.config(name, version)
            except UnknownModel:
                raise _unknown(model, [one.name for one in client.models()]) from None
    except EnsembledClientError as error:
        raise EnsembledError(f"{url}: {error.message}") from None
    return _description(metadata, config, url=url, needs_key=api_key is not None, version=version)


def _unknown(model: str, known: Sequence[str]) -> ConfigError:
    hint = did_you_mean(model, known) or f", there are {', '.join(known)}"
    return ConfigError(f"there is no model {model!r}{hint}")


def _description(
    metadata: Mapping[str, Any],
    config: Mapping[str, Any],
    *,
    url: str,
    needs_key: bool,
    version: str,
) -> Description:
    """Describe a model by the protocol's documents; the version is empty if none was asked for."""
    ensemble = dict(config.get("ensemble", {}))
    labels = tuple(ensemble.pop("labels", ()))
    on_request = ensemble.pop("extra_outputs", ())
    limits = ensemble.pop("max_shapes", {})
    inputs = _tensors(metadata["inputs"], limits)
    request = ExampleRequest(metadata["name"], inputs, url, bool(labels), needs_key, version)
    return Description(
        model=internal_name(metadata["name"], version) if version else metadata["name"],
        ensemble=ensemble,
        inputs=inputs,
        outputs=_tensors(metadata["outputs"]),
        on_request=_tensors(on_request),
        labels=labels,
        examples={
            "curl": request.by_curl(),
            "python": request.by_python(),
            "tritonclient": request.by_tritonclient(),
        },
    )


def _tensors(
    documents: Sequence[Mapping[str, Any]], limits: Mapping[str, Sequence[int]] | None = None
) -> tuple[TensorInfo, ...]:
    return tuple(
        TensorInfo(
            one["name"],
            one["datatype"],
            tuple(one["shape"]),
            tuple((limits or {}).get(one["name"], ())),
        )
        for one in documents
    )


def _lines(found: Description) -> Iterator[str]:
    """The text for people; the examples can be copied out of it."""
    yield f"{found.model}: {_summary(found.ensemble)}"
    for title, tensors in (
        ("inputs", found.inputs),
        ("outputs", found.outputs),
        ("on request", found.on_request),
    ):
        if tensors:
            yield f"\n{title}"
            yield from (f"  {one.name}  {_kind(one)}" for one in tensors)
    if found.labels:
        more = ", ..." if len(found.labels) > _MAX_LABELS else ""
        yield f"\n{len(found.labels)} labels: {', '.join(found.labels[:_MAX_LABELS])}{more}"
    for client, text in found.examples.items():
        yield f"\n# {client}\n{text}"


def _summary(ensemble: Mapping[str, Any]) -> str:
    """Members, rule and the like in a line."""
    members = ensemble.get("members", ())
    if len(members) < 2:
        return ", ".join(["a member", *_running(ensemble)])
    parts = [f"an ensemble of {', '.join(members)}; rule {ensemble['rule']}"]
    parts.append(f"an answer needs {ensemble['quorum']} of {len(members)}")
    if ensemble["deadline_ms"]:
        parts.append(f"deadline {ensemble['deadline_ms']:g} ms")
    if "cascade" in ensemble:
        parts.append("cascade " + ", then ".join(" and ".join(one) for one in ensemble["cascade"]))
    return ", ".join([*parts, *_running(ensemble)])


def _running(ensemble: Mapping[str, Any]) -> Iterator[str]:
    """Which members run as variants."""
    for member, variants in ensemble.get("variants", {}).items():
        for kind, variant in variants.items():
            yield f"{member} runs as {variant} on {kind}"


def _kind(tensor: TensorInfo) -> str:
    """``FP32 [n, 3]``; a variable size is named by its largest one, if that is known."""
    if tensor.is_image:
        return "[n] encoded images (JPEG, PNG, ...), or UINT8 [n, height, width, 3]"
    limits = tensor.max_shape or ("any",) * (len(tensor.shape) - 1)
    sizes = [
        (f"up to {limit}" if limit != "any" else "any") if size == -1 else str(size)
        for size, limit in zip(tensor.shape[1:], limits, strict=True)
    ]
    return f"{tensor.datatype} [{', '.join(['n', *sizes])}]"
