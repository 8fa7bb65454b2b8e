"""Step 2 from a configuration to running processes: what the configured models are.

`inspect` finds and inspects the models, `agreement` checks what the members of an ensemble must
agree on, `rules` the rules that are more than a name, and `composition` arranges members in arenas
and ensembles. Next: `server.profiling`.
"""
