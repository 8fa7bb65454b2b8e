"""Step 3 from a configuration to running processes: what the members cost on the devices.

Costs are measured, read from the cache of earlier measurements, or estimated. Each member is
measured once per kind of device, in a process of its own (`workers.profiler.process`), one after
the other so that they don't disturb each other; batch sizes ascend until they no longer pay or no
longer fit. The cache's keys cover all that a measurement depends on. Next: `server.deployment`.
"""

from server.profiling.measurements import Measurements
from server.profiling.profile import OnProgress, placed_devices, profile_members

__all__ = ["Measurements", "OnProgress", "placed_devices", "profile_members"]
