"""From a configuration to a running plan: devices, costs, the search, arenas, ensembles."""
