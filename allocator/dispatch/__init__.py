"""The dispatch policy: which member's rows run next, in which batch, on which device.

Pure and free of clocks (times are arguments). The front-end drives it with the workers that it has
(`server.engine.fleet`), a simulation with those it imagines (`allocator.simulation.engine`).
"""
