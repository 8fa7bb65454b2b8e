"""Step 4 from a configuration to running processes: which member runs on which device.

`devices` finds the devices; `placement` searches for an allocation of members to them, by the costs
in `costs`, or reads one from a file; `plan` puts all steps up to here together, and `report` prints
the result. Next: `server.supervision`.
"""
