"""Whether an old and a new deployment fit into the memory together, and what if they do not.

Runs in the supervisor before a change; pure. Two plans flow in, an `Exchange` flows out: where old
instances have to be unloaded before new ones are loaded, and what that means for clients.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

import msgspec

from allocator.problem import readable_bytes
from server.deployment.devices import arena_budget_bytes
from server.deployment.memory import instance_bytes, memory_domains
from server.deployment.plan import DeploymentPlan
from server.errors import ConfigError
from workers.runtime.spec import DeviceSpec, ModelSource

__all__ = ["Exchange", "plan_exchange"]

#: By device the models that are loaded there, each with its bytes: what is equal is loaded once.
_Loaded = Mapping[str, Mapping[bytes, int]]


@dataclass(frozen=True)
class Exchange:
    """What has to go before the new deployment is loaded; false if nothing has to.

    Attributes:
        devices: on which the old deployment's instances that go are unloaded first.
        members: of the old deployment, by the server's names, that nothing serves meanwhile.
        waiting: its models, by the server's names, whose requests wait meanwhile.
        reduced: those that are answered without the missing members, by quorum.
    """

    devices: tuple[str, ...] = ()
    members: tuple[str, ...] = ()
    waiting: tuple[str, ...] = ()
    reduced: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        """Whether there is not room for both."""
        return bool(self.devices)

    def describe(self) -> Iterator[str]:
        """Yield what it means, in lines for people."""
        if not self.devices:
            return
        yield (
            f"{', '.join(self.devices)}: no room for both, so what goes is unloaded before what "
            "comes is loaded"
        )
        if self.reduced:
            without = ", ".join(self.members)
            yield f"meanwhile: {', '.join(self.reduced)} answered by quorum without {without}"
        if self.waiting:
            yield f"meanwhile: requests to {', '.join(self.waiting)} wait"


def plan_exchange(before: DeploymentPlan, after: DeploymentPlan) -> Exchange:
    """Find out where two deployments have no room together.

    A model that both have on a device counts once. On devices that share the RAM, the arenas of
    both are part of what is needed.

    Raises:
        ConfigError: if the new one does not fit even after what goes has been unloaded.
    """
    old, new = _loaded(before), _loaded(after)
    pools = _pools([*before.all_devices, *after.all_devices])
    arenas = before.composition.arena_bytes + after.composition.arena_bytes
    more_arenas = max(0, arenas - arena_budget_bytes(after.config))
    in_ram = {device.name for device in after.all_devices if device.pool}
    crowded: list[str] = []
    for domain in memory_domains(after.all_devices, after.found):
        pool = next(names for names in pools.values() if domain.devices[0] in names)
        extra = more_arenas if domain.devices[0] in in_ram else 0
        alone = sum(sum(new.get(name, {}).values()) for name in pool)
        both = sum(sum(_union(old.get(name, {}), new.get(name, {})).values()) for name in pool)
        if alone + extra > domain.memory_bytes:
            where, has = " + ".join(domain.devices), readable_bytes(domain.memory_bytes)
            raise ConfigError(
                f"{where}: the new instances{' and arenas' if extra else ''} take "
                f"{readable_bytes(alone + extra)}, there is {has} for them"
            )
        if both + extra > domain.memory_bytes:
            goes = {name: old.get(name, {}).keys() - new.get(name, {}).keys() for name in pool}
            crowded += [name for name in pool if goes[name]]
    return _exchange(before, new, tuple(crowded)) if crowded else Exchange()


def _exchange(before: DeploymentPlan, new: _Loaded, crowded: tuple[str, ...]) -> Exchange:
    """What goes first on some devices, and who notices it."""
    stays: dict[str, bool] = {}
    for (device, name), source in before.instance_sources.items():
        is_kept = device not in crowded or _content(source) in new.get(device, {})
        stays[name] = stays.get(name, False) or is_kept
    missing = [name for name, does_stay in stays.items() if not does_stay]
    waiting: list[str] = []
    reduced: list[str] = []
    for name, members, quorum in _served(before):
        left = [one for one in members if one not in missing]
        if len(left) < len(members):
            (reduced if len(left) >= quorum else waiting).append(name)
    return Exchange(crowded, tuple(missing), tuple(waiting), tuple(reduced))


def _served(plan: DeploymentPlan) -> Iterator[tuple[str, Collection[str], int]]:
    """Yield each model's name, its members, and the fewest that an answer needs."""
    for name, ensemble in plan.config.ensembles.items():
        yield name, ensemble.members, ensemble.required_members
    for name in plan.config.members:
        yield name, (name,), 1


def _loaded(plan: DeploymentPlan) -> _Loaded:
    kinds = {device.name: device.kind for device in plan.all_devices}
    sources = plan.instance_sources
    loaded: defaultdict[str, dict[bytes, int]] = defaultdict(dict)
    for device, member, batch in plan.matrix.instances():
        content = _content(sources[device, member])
        taken = instance_bytes(plan.found, kinds[device], member, batch)
        loaded[device][content] = max(taken, loaded[device].get(content, 0))
    return loaded


def _union(old: Mapping[bytes, int], new: Mapping[bytes, int]) -> dict[bytes, int]:
    return {key: max(old.get(key, 0), new.get(key, 0)) for key in {**old, **new}}


def _content(source: ModelSource) -> bytes:
    """Equal for models that a worker loads once: all but the member's name."""
    return msgspec.json.encode(msgspec.structs.replace(source, member="", links=""))


def _pools(devices: Collection[DeviceSpec]) -> dict[str, list[str]]:
    """The names of devices by the memory that they share, or have for themselves."""
    pools: defaultdict[str, list[str]] = defaultdict(list)
    for device in devices:
        names = pools[device.pool or device.name]
        if device.name not in names:
            names.append(device.name)
    return pools
