"""Other servers with the same members, measured beside ours: `python -m benchmarks.peers`."""
