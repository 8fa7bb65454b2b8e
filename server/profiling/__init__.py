"""What the members cost on the devices: measured, remembered from an earlier time, or estimated.

Runs in the process that plans an allocation, before anything is served. Members and devices flow
in, `Measurements` flow out. Each member is measured once per kind of device, in a process of its
own (`workers.profiler.process`), one after the other so that they don't disturb each other; batch
sizes ascend until they no longer pay or no longer fit. What was measured is kept in the cache,
under a name made of all that it depends on.
"""

from server.profiling.measurements import Measurements
from server.profiling.members import OnProgress, profile_members

__all__ = ["Measurements", "OnProgress", "profile_members"]
