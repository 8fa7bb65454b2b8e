"""What `make bench` runs: the server's speed against what the members can do without it.

Figures are ratios of things measured in turn in one run; nothing here asserts a time.
"""
