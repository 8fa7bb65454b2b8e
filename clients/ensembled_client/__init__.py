"""A client for Ensembled: one request in, the answer of a whole ensemble out.

Its names are imported at their first use: `import ensembled_client.wire`, which the server does,
imports no HTTP or gRPC library.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ensembled_client.async_client import AsyncEnsemble, AsyncEnsembleClient
    from ensembled_client.changes import Change
    from ensembled_client.client import Ensemble, EnsembleClient
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
    from ensembled_client.models import ModelState, Prediction, Timing
    from ensembled_client.retries import RetryPolicy

__all__ = [
    "AsyncEnsemble",
    "AsyncEnsembleClient",
    "Change",
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

_MODULES = {
    "async_client": ("AsyncEnsemble", "AsyncEnsembleClient"),
    "changes": ("Change",),
    "client": ("Ensemble", "EnsembleClient"),
    "models": ("ModelState", "Prediction", "Timing"),
    "retries": ("RetryPolicy",),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_MODULE_OF.get(name, 'errors')}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
