"""A client for Ensembled: one request in, the answer of a whole ensemble out."""

from ensembled_client.errors import (
    DeadlineExceeded,
    EnsembledClientError,
    Overloaded,
    RequestRejected,
    ServerFailure,
    Unavailable,
    UnknownModel,
)
from ensembled_client.http import AsyncEnsembleClient, EnsembleClient
from ensembled_client.prediction import Prediction

__all__ = [
    "AsyncEnsembleClient",
    "DeadlineExceeded",
    "EnsembleClient",
    "EnsembledClientError",
    "Overloaded",
    "Prediction",
    "RequestRejected",
    "ServerFailure",
    "Unavailable",
    "UnknownModel",
]
