"""What is said between a client and a server, whatever the protocol; and who says it, a `Link`.

Runs in the caller's process. The session above hands requests to a link, which encodes, sends and
decodes. Methods of links are coroutines everywhere; a blocking link's never wait for anything
(see `runtime.run`), so that one session serves both clients.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from ensembled_client.tensors import Tensor
from ensembled_client.wire import InferResponse

__all__ = ["CLASS", "OUTPUT", "InferRequest", "Link", "Parameter", "Subject", "Topic"]

#: The combined answer's name, and that of each row's best class.
OUTPUT, CLASS = "output", "class"

#: The value of a request's parameter.
Parameter = str | int | bool


@dataclass(frozen=True)
class InferRequest:
    """A request to predict.

    Attributes:
        model: an ensemble or a member.
        tensors: its inputs.
        outputs: which outputs are wanted.
        classes: how many of the best classes `output` should name, 0 for all values.
        parameters: of the request, in a fixed order so that equal requests are equal.
    """

    model: str
    tensors: tuple[Tensor, ...]
    outputs: tuple[str, ...] = (OUTPUT,)
    classes: int = 0
    parameters: tuple[tuple[str, Parameter], ...] = ()

    @property
    def requested_outputs(self) -> Mapping[str, int]:
        """The outputs, with the number of classes to name of each, 0 for values."""
        return {name: self.classes if name == OUTPUT else 0 for name in self.outputs}


class Subject(Enum):
    """What a server can be asked about."""

    SERVER = "the server's metadata"
    LIVE = "whether the server lives"
    READY = "whether the server takes traffic"
    INDEX = "its models"
    STATISTICS = "statistics"
    METADATA = "a model's metadata"
    CONFIG = "a model's configuration"
    MODEL_READY = "whether a model takes traffic"


@dataclass(frozen=True)
class Topic:
    """A question about the server, or about a model.

    Attributes:
        subject: what is asked for.
        model: whom it is about; "" for the server, or, of statistics, for every model.
    """

    subject: Subject
    model: str = ""


class Link(ABC):
    """A protocol spoken with one server, over connections that are kept."""

    @abstractmethod
    async def infer(self, request: InferRequest, limit_s: float | None) -> InferResponse:
        """Have a model predict.

        Args:
            request: what is sent.
            limit_s: when to stop waiting for the answer, None for never.

        Raises:
            EnsembledClientError: what the server answered instead, or why it did not.
        """

    @abstractmethod
    async def look_up(self, topic: Topic, limit_s: float) -> Any:
        """Ask about something.

        Returns:
            The document that the protocol has for it over HTTP; for readiness a bool.

        Raises:
            EnsembledClientError: as `infer`; `Unavailable` may stand for "not ready".
        """

    @abstractmethod
    def overhead_bytes(self, request: InferRequest) -> int:
        """Return how much longer a request is than its raw tensors, or a little more."""

    @abstractmethod
    async def close(self) -> None:
        """Close the connections."""
