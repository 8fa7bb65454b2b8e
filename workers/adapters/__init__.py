"""Adapters: classes that open models of other libraries, called by `workers.backends.python`.

Run in workers and in inspection. Importing this package imports no library.
"""

__all__ = ["AdapterError"]


class AdapterError(Exception):
    """A model can't be served; the text is the reason, without the member and its file."""
