"""Step 5 from a configuration to running processes: they are started, watched and stopped.

`launch` is the composition root: from a configuration to a running server. `supervisor` keeps the
children (`child`) alive, `config_reloader` reloads the configuration on SIGHUP, `sockets` binds the
ports, and `systemd` notifies systemd.
"""
