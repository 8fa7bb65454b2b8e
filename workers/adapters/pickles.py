"""Unpickles a model that the operator trusts: the only module that runs what a file says.

Runs in workers and in inspection, never in the server. The path of a pickle (`pickle`, `joblib`,
`cloudpickle`) whose member says `trust_pickle: true` flows in, an object flows out.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import joblib

from workers.adapters import AdapterError

__all__ = ["open_pickle"]


def open_pickle(path: Path, *, trusted: bool) -> Any:
    """Return the object in a pickle, which may run any code while it is loaded.

    Raises:
        AdapterError: if it is not trusted, or can't be loaded.
    """
    if not trusted:
        raise AdapterError(
            "is a pickle, which can run any code when it is loaded: save the model with "
            "skops.io.dump as .skops, or convert it to ONNX with skl2onnx; if you trust whoever "
            "made the file, write trust_pickle: true under the member's model"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of another version of the library
            return joblib.load(path)
    except ModuleNotFoundError as missing:
        raise AdapterError(
            f"the pickle needs the module {missing.name}: install it beside the server, or put its "
            "directory on PYTHONPATH"
        ) from missing
    except Exception as failure:
        raise AdapterError(
            f"the pickle can't be loaded ({type(failure).__name__}: {failure}): it may be of "
            "other versions of its libraries, install those that made it"
        ) from failure
