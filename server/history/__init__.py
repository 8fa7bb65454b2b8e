"""What servers have served: kept by the minute in a local database, for people and for placement.

The supervisor writes what the front-end reports; commands and later starts read it.
"""
