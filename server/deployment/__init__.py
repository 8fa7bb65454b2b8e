"""Step 4 from a configuration to running processes: which member runs on which device.

`placement` finds the devices and searches for an allocation of members to them, by the costs in
`costs`; `allocation_file` reads one instead; `plan` puts all steps up to here together, and
`report` prints the result. Next: `server.supervision`.
"""
