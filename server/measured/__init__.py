"""Lets the running server decide between allocations that the model takes for good."""
