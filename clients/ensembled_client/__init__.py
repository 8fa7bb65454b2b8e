"""A client for Ensembled: one request in, the answer of a whole ensemble out."""

from ensembled_client.async_client import AsyncEnsembleClient
from ensembled_client.client import EnsembleClient
from ensembled_client.errors import (
    DeadlineExceeded,
    EnsembledClientError,
    Overloaded,
    RequestRejected,
    RequestTooLarge,
    ServerFailure,
    Unavailable,
    UnknownModel,
)
from ensembled_client.handles import AsyncEnsemble, Ensemble
from ensembled_client.models import ModelState
from ensembled_client.prediction import Prediction, Timing
from ensembled_client.retries import RetryPolicy

__all__ = [
    "AsyncEnsemble",
    "AsyncEnsembleClient",
    "DeadlineExceeded",
    "Ensemble",
    "EnsembleClient",
    "EnsembledClientError",
    "ModelState",
    "Overloaded",
    "Prediction",
    "RequestRejected",
    "RequestTooLarge",
    "RetryPolicy",
    "ServerFailure",
    "Timing",
    "Unavailable",
    "UnknownModel",
]
