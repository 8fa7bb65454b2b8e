"""The dispatch policy: which member's rows run next, in which batch, on which device.

Pure and free of clocks (times are arguments). The front-end drives it with its workers
(`server.engine.fleet`), a simulation with simulated ones (`allocator.simulation.simulation`).
"""
