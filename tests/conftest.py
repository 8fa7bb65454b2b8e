"""What all tests share: deterministic hypothesis, and (see `serving.py`) the real server."""

import sys
from pathlib import Path

from hypothesis import settings

sys.path.insert(0, str(Path(__file__).parent / "support"))

settings.register_profile("ensembled", derandomize=True, deadline=None, database=None)
settings.register_profile("fast", settings.get_profile("ensembled"), max_examples=20)
settings.load_profile("ensembled")

pytest_plugins = ["serving", "grpc_calls"]
