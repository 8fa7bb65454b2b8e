"""The parameters of requests, inputs and outputs that the server knows or leaves unused.

Used in the front-end, under every protocol; pure. Names of parameters flow in, complaints about
those that nobody knows flow out: a typo would otherwise change nothing and say nothing.
"""

from __future__ import annotations

from collections.abc import Collection

from server.errors import did_you_mean

__all__ = ["IMAGE_QUERY", "INPUT", "OUTPUT", "REQUEST", "ParameterSet"]

#: Prefix of the names that Triton's extensions reserve.
_RESERVED_PREFIX = "triton_"


class ParameterSet:
    """The parameters that one kind of object may have.

    `used` change the answer, or are refused with a reason of their own. `unused` are those that the
    protocol or its clients define and that have no meaning here: they pass.
    """

    def __init__(self, used: Collection[str], unused: Collection[str] = ()) -> None:
        self._used = tuple(used)
        self._known = frozenset((*used, *unused))

    def complain(self, where: str, given: Collection[str]) -> str:
        """Return what is wrong with the first unknown parameter, empty if all are known.

        `where` names what has them, empty for the request itself.
        """
        if self._known.issuperset(given):
            return ""
        for name in given:
            if name not in self._known and not name.startswith(_RESERVED_PREFIX):
                hint = did_you_mean(name, self._used) or f", it may be {', '.join(self._used)}"
                return f"{where}{': ' if where else ''}there is no parameter {name!r}{hint}"
        return ""


#: MLServer's and KServe's clients describe how they encoded a request.
_DESCRIPTIVE = ("content_type", "headers")
_SHARED_MEMORY = ("shared_memory_region", "shared_memory_byte_size", "shared_memory_offset")

REQUEST = ParameterSet(
    ("members", "quorum", "timeout", "priority", "binary_data_output", "coverage", "quantiles"),
    ("sequence_id", "sequence_start", "sequence_end", *_DESCRIPTIVE),
)
INPUT = ParameterSet(("binary_data_size",), (*_SHARED_MEMORY, *_DESCRIPTIVE))
OUTPUT = ParameterSet(
    ("binary_data", "classification", "coverage", "quantiles"), (*_SHARED_MEMORY, *_DESCRIPTIVE)
)
#: The query string of a request whose body is an image.
IMAGE_QUERY = ParameterSet(("classification", "members"))
