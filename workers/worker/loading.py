"""Loads the instances of generations into a worker, and unloads them; models are shared.

Runs in the worker: at its start, then in the thread of `workers.runtime.loader` while the loop
serves other generations. A model that is loaded already, whatever members it is of, gets another
instance. Only the loop may run such a model, so it also warms the instance, unless its latencies
are known from one like it.
"""

from __future__ import annotations

import logging
import mmap
from collections.abc import Callable, Collection, Iterable

import msgspec

from workers.backends import Model, load
from workers.runtime.arena import Arena
from workers.runtime.importing import describe_failure
from workers.runtime.loader import LoadFailed
from workers.runtime.memory import SharedMemory
from workers.runtime.spec import DeviceSpec, GenerationSpec, InstanceSpec, Load, ModelSource
from workers.worker.host_memory import pin_for_device, release_memory, unpin
from workers.worker.instance import Instance

__all__ = ["InstanceLoader", "Part", "Served"]

_log = logging.getLogger(__name__)

#: By what an instance's latencies depend on, beside its model: see `_likeness`.
_Latencies = dict[bytes, tuple[float, float]]


def _model_key(source: ModelSource) -> bytes:
    """Return what is equal for members with the same model, as their files were stamped."""
    return msgspec.json.encode(msgspec.structs.replace(source, member="", links=""))


def _likeness(spec: InstanceSpec, arena: Arena) -> bytes:
    """Return what is equal for instances of a model that run the same batches."""
    views = [arena.spec.views[one.view] for one in spec.bindings]
    bindings = [msgspec.structs.replace(one, view=0) for one in spec.bindings]
    outputs = [msgspec.structs.replace(one, area=0) for one in spec.outputs]
    return msgspec.json.encode(
        (spec.batch, views, bindings, outputs, spec.augmentation, spec.buckets)
    )


class Part:
    """What a worker's loop needs for a generation: `arenas` and `instances` by their numbers."""

    def __init__(self) -> None:
        self.arenas: dict[int, Arena] = {}
        self.instances: dict[int, Instance] = {}
        self._cold: list[tuple[Instance, _Latencies, bytes]] = []

    def add(self, spec: InstanceSpec, model: _LoadedModel, device: DeviceSpec) -> None:
        """Make an instance of a loaded model, and warm it up if the loop need not."""
        arena = self.arenas[spec.arena]
        instance = Instance(spec, arena, model.model, probes_device=device.is_cuda)
        likeness = _likeness(spec, arena)
        if likeness in model.latencies:
            instance.latency_s = model.latencies[likeness]
        elif model.is_in_use:
            self._cold.append((instance, model.latencies, likeness))
        else:
            instance.warm_up()
            model.latencies[likeness] = instance.latency_s
        self.instances[spec.id] = instance

    def warm_up(self) -> None:
        """Warm up the instances whose models the loop may be using; see `Instance.warm_up`."""
        for instance, latencies, likeness in self._cold:
            instance.warm_up()
            latencies[likeness] = instance.latency_s
        self._cold.clear()


class Served:
    """What the loop serves, of all generations: `arenas` and `instances` by their numbers."""

    def __init__(self) -> None:
        self.arenas: dict[int, Arena] = {}
        self.instances: dict[int, Instance] = {}
        self._parts: dict[int, list[Part]] = {}

    def add(self, generation: int, part: Part) -> None:
        """Serve what has been loaded for a generation, too.

        Raises:
            ValueError: if an instance fails in its warm-up, see `Instance.warm_up`.
        """
        part.warm_up()
        self.arenas |= part.arenas
        self.instances |= part.instances
        self._parts.setdefault(generation, []).append(part)

    def make_room(self, command: Load) -> None:
        """Forget the instances whose models will be closed before those of a load come."""
        kept = {_model_key(one.source) for one in command.instances}
        for part in self._parts.get(command.replaces, ()):
            for number, instance in [*part.instances.items()]:
                if _model_key(instance.spec.source) not in kept:
                    del part.instances[number], self.instances[number]

    def drop(self, generation: int) -> None:
        """Forget a generation."""
        for part in self._parts.pop(generation, ()):
            for number in part.instances:
                del self.instances[number]
            for number in part.arenas:
                self.arenas.pop(number, None)


class _LoadedModel:
    """A model, and the latencies of its instances; the loop may run it if it `is_in_use`."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.latencies: _Latencies = {}
        self.is_in_use = False


class InstanceLoader:
    """A `workers.runtime.loader.Builder` of the instances of one device."""

    def __init__(self, device: DeviceSpec, memory: SharedMemory) -> None:
        self._device = device
        self._memory = memory
        self._models: dict[bytes, _LoadedModel] = {}
        #: By generation, the model of each instance.
        self._uses: dict[int, dict[int, bytes]] = {}
        self._pinned: dict[int, list[mmap.mmap]] = {}

    def load(self, command: Load, goes_on: Callable[[], bool] = lambda: True) -> Part:
        """Load those instances of a generation that are not there yet.

        Raises:
            LoadFailed: naming member and file, see `workers.runtime.loader.Builder`.
        """
        generation = command.generation
        if command.replaces:
            self._keep(command.replaces, {_model_key(one.source) for one in command.instances})
        uses = self._uses.setdefault(generation.number, {})
        wanted = [one for one in command.instances if one.id not in uses]
        part, error = Part(), ""
        try:
            self._map(generation, part)
            for spec in wanted:
                if not goes_on():
                    raise LoadFailed("it is not wanted any more")
                uses[spec.id] = _model_key(spec.source)
                self._add(part, spec)
        except BaseException as failure:  # SystemExit of a user's module, too
            _log.debug("generation %d can't be loaded", generation.number, exc_info=True)
            error = str(failure) if isinstance(failure, LoadFailed) else describe_failure(failure)
        if error:  # only here does no traceback refer to anything
            del part
            self._forget(generation.number, [one.id for one in wanted])
            raise LoadFailed(error)
        for key in uses.values():
            self._models[key].is_in_use = True
        return part

    def unload(self, generation: int) -> None:
        """Close the models that no other generation uses."""
        self._forget(generation, list(self._uses.get(generation, ())))

    def _map(self, generation: GenerationSpec, part: Part) -> None:
        mapping = self._memory.map(generation)
        if pin_for_device(mapping, self._device):
            self._pinned.setdefault(generation.number, []).append(mapping)
        for spec in generation.arenas:
            part.arenas[spec.index] = Arena(mapping, spec)

    def _add(self, part: Part, spec: InstanceSpec) -> None:
        """Add an instance; its model is loaded if it is not there."""
        source, key = spec.source, _model_key(spec.source)
        try:
            if key not in self._models:
                self._models[key] = _LoadedModel(load(source, self._device))
            part.add(spec, self._models[key], self._device)
        except BaseException as failure:
            text = str(failure)
            if source.member not in text:
                text = f"member {source.member!r} ({source.origin}): {describe_failure(failure)}"
            raise LoadFailed(text) from failure

    def _keep(self, generation: int, keys: Collection[bytes]) -> None:
        """Close those models of a generation that are not needed further on."""
        uses = self._uses.get(generation, {})
        self._forget(generation, [number for number, key in uses.items() if key not in keys])

    def _forget(self, generation: int, instances: Iterable[int]) -> None:
        """Close the models that only these instances use; without any, unpin the generation."""
        uses = self._uses.get(generation, {})
        for number in instances:
            uses.pop(number, None)
        if not uses:
            self._uses.pop(generation, None)
            for mapping in self._pinned.pop(generation, ()):
                unpin(mapping)
        used = {key for keys in self._uses.values() for key in keys.values()}
        unused = [key for key in self._models if key not in used]
        for key in unused:
            _close(self._models.pop(key).model)
        if unused:
            release_memory()


def _close(model: Model) -> None:
    try:
        model.close()
    except BaseException:  # of a user's class
        _log.exception("closing a model failed")
