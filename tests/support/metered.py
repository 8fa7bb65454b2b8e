"""What tells the energy of devices: a fake of `pynvml`, and files as those of the kernel's RAPL."""

from pathlib import Path

SLICE = "MIG-1"


class FakeNvml:
    """GPUs by UUID, whose counter grows by `watts` per second of `now`, in steps of `step_s`.

    `cannot` names what is not supported: "energy", "power". SLICE is a part of a GPU, of which
    neither is known.
    """

    class NVMLError(Exception):
        pass

    def __init__(self, *uuids, watts=100.0, step_s=0.0, cannot=(), dead=False):
        self.uuids = uuids or ("GPU-a",)
        self.watts = watts
        self.step_s = step_s
        self.cannot = cannot
        self.dead = dead
        self.now = 0.0
        self.joules = 5000.0
        self.limit_mw = {uuid: 700_000 for uuid in self.uuids}
        self.limits_set = []

    def advance(self, seconds):
        self.joules += seconds * self.watts
        self.now += seconds

    def clock(self):
        return self.now

    def nvmlInit(self):
        if self.dead:
            raise self.NVMLError("Driver Not Loaded")

    def nvmlDeviceGetHandleByIndex(self, index):
        if index >= len(self.uuids):
            raise self.NVMLError("Invalid Argument")
        return self.uuids[index]

    def nvmlDeviceGetHandleByUUID(self, uuid):
        if uuid not in (*self.uuids, SLICE):
            raise self.NVMLError("Not Found")
        return uuid

    def nvmlDeviceGetUUID(self, gpu):
        return gpu

    def _check(self, what, gpu):
        if gpu == SLICE or what in self.cannot:
            raise self.NVMLError("Not Supported")

    def nvmlDeviceGetTotalEnergyConsumption(self, gpu):
        self._check("energy", gpu)
        lag_s = self.now % self.step_s if self.step_s else 0.0
        return round((self.joules - lag_s * self.watts) * 1000)

    def nvmlDeviceGetPowerUsage(self, gpu):
        self._check("power", gpu)
        return int(self.watts * 1000)

    def _unknown(self, *_):
        raise self.NVMLError("Not Supported")

    nvmlDeviceGetMemoryInfo = nvmlDeviceGetUtilizationRates = _unknown
    nvmlDeviceGetTemperature = _unknown
    NVML_TEMPERATURE_GPU = 0

    def nvmlDeviceGetPowerManagementLimit(self, gpu):
        self._check("limit", gpu)
        return self.limit_mw[gpu]

    def nvmlDeviceGetPowerManagementLimitConstraints(self, gpu):
        self._check("limit", gpu)
        return [200_000, 700_000]

    def nvmlDeviceSetPowerManagementLimit(self, gpu, milliwatts):
        self._check("set", gpu)
        self.limit_mw[gpu] = milliwatts
        self.limits_set.append(milliwatts)


class FakeRapl:
    """The kernel's files under a root: processors by number with their cores, counters from 0."""

    def __init__(self, root: Path, packages, *, names=None, most_uj=1_000_000_000):
        self.root = root
        self.files = {}
        for number, cores in packages.items():
            folder = root / f"sys/class/powercap/intel-rapl:{number}"
            folder.mkdir(parents=True)
            (folder / "name").write_text((names or {}).get(number, f"package-{number}") + "\n")
            (folder / "max_energy_range_uj").write_text(f"{most_uj}\n")
            self.files[number] = folder / "energy_uj"
            self.set(number, 0)
            for core in cores:
                topology = root / f"sys/devices/system/cpu/cpu{core}/topology"
                topology.mkdir(parents=True)
                (topology / "physical_package_id").write_text(f"{number}\n")

    def set(self, number, microjoules):
        self.files[number].write_text(f"{microjoules}\n")
