"""What all tests share: deterministic hypothesis, and (see `serving.py`) the real server."""

import sys
from pathlib import Path

import pytest
from hypothesis import settings

from workers.runtime.environment import prepare_environment

sys.path.insert(0, str(Path(__file__).parent / "support"))
prepare_environment()  # as in every process of the server: some tests import ONNX Runtime

settings.register_profile("ensembled", derandomize=True, deadline=None, database=None)
settings.register_profile("fast", settings.get_profile("ensembled"), max_examples=20)
settings.load_profile("ensembled")

pytest_plugins = ["serving", "grpc_calls"]


@pytest.fixture(autouse=True)
def _own_import_path(monkeypatch):
    """Directories that a test's configuration adds to `sys.path` are not there in other tests."""
    monkeypatch.setattr(sys, "path", [*sys.path])
