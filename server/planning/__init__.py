"""Where the members of a configuration go: devices, costs, the search, what people read of it."""
