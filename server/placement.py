"""Where the members go: devices and allocation matrix for a configuration.

Runs in the supervisor before anything is started. Signatures flow in, devices and a matrix flow
out. Until members are profiled, their memory is estimated from the model file.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from allocator.devices import Device, Wanted, discover, select
from allocator.matrix import AllocationMatrix
from allocator.replicate import replicate
from allocator.worst_fit import Demand, NoPlaceError, worst_fit
from server.config import Config
from server.errors import ConfigError, StartError
from workers.spec import DeviceSpec, ModelSignature

__all__ = ["find_devices", "place"]

#: RAM left to the front-end, the combiner and the supervisor.
_PROCESSES_BYTES = 512 << 20
#: Weights are held once as read and once as laid out for the device.
_WEIGHTS_FACTOR = 2
#: A network's activations, as a multiple of its inputs and outputs.
_ACTIVATIONS_FACTOR = 16
#: Networks below this size run faster the bigger the batch; on a CPU, bigger ones do not.
_SMALL_BYTES = 1 << 20
_LARGE_BATCH = 32
_CPU_BATCH = 4


def find_devices(config: Config, arena_bytes: int) -> list[DeviceSpec]:
    """The devices of a configuration, each with its memory budget.

    Raises:
        ConfigError: if a device it names is not there.
    """
    reserve = arena_bytes + _PROCESSES_BYTES
    if config.devices == "auto":
        return [_spec(device) for device in discover(reserve_bytes=reserve)]
    wanted = [
        Wanted(one.name, one.cores, one.memory_bytes, one.part_of or "", one.memory_fraction)
        for one in config.devices
    ]
    try:
        return [_spec(device) for device in select(wanted, reserve_bytes=reserve)]
    except ValueError as error:
        raise ConfigError(f"devices: {error}") from None


def place(
    config: Config, devices: list[DeviceSpec], signatures: dict[str, ModelSignature]
) -> AllocationMatrix:
    """The allocation matrix: the file's that the configuration names, or worst-fit by memory.

    Raises:
        ConfigError: if the file does not fit the configuration.
        StartError: if there is no place for a member.
    """
    if config.allocation != "auto":
        return _read_matrix(config, devices)
    pool = [Device(d.name, d.kind, d.memory_bytes, d.cores) for d in devices]
    has_gpu = any(device.is_cuda for device in devices)
    demands = [
        _demand(name, signature, config.members[name].batch_size, has_gpu)
        for name, signature in signatures.items()
    ]
    try:
        return replicate(worst_fit(demands, pool), demands, pool)
    except NoPlaceError as error:
        raise StartError(str(error)) from None


def _spec(device: Device) -> DeviceSpec:
    return DeviceSpec(
        device.name,
        device.kind,
        int(device.memory_bytes),  # from a configuration it is a ByteSize, which has no JSON
        device.cores,
        uuid=device.uuid,
        pool=device.pool,
        virtual=device.virtual,
    )


def _demand(name: str, signature: ModelSignature, batch: int | None, has_gpu: bool) -> Demand:
    if batch is None:
        small = signature.parameter_bytes < _SMALL_BYTES
        batch = _LARGE_BATCH if small or has_gpu else _CPU_BATCH
    row = sum(tensor.row_bytes for tensor in (*signature.inputs, signature.output))
    weights = signature.parameter_bytes * _WEIGHTS_FACTOR
    return Demand(name, batch, weights + batch * row * _ACTIVATIONS_FACTOR)


def _read_matrix(config: Config, devices: list[DeviceSpec]) -> AllocationMatrix:
    path = config.allocation
    assert path != "auto"
    try:
        matrix = AllocationMatrix.from_json(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: {error}") from None
    problems = [
        *_differences("member", matrix.members, config.members),
        *_differences("device", matrix.devices, [device.name for device in devices], subset=True),
    ]
    if problems:
        raise ConfigError(f"{path}: {problem}" for problem in problems)
    return matrix


def _differences(
    what: str, named: Sequence[str], there: Collection[str], *, subset: bool = False
) -> list[str]:
    problems = [f"{what} {name!r} is not there" for name in named if name not in there]
    if not subset:
        problems += [f"{what} {name!r} has no column" for name in there if name not in named]
    return problems
