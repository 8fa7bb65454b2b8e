"""Brings the files that a configuration names by URL into the cache, before anything else starts.

`source` says what a configuration names, `cache` (in the supervisor) finds it in the cache or has a
child fetch it: `__main__` is that child, `web` and `stores` its two ways to reach a file.
"""
