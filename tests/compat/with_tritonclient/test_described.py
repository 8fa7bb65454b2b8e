"""The request that `ensembled describe` shows for this client, run as it is pasted."""

import json
import subprocess
import sys

import pytest
from digits_server import project_environment, project_program


@pytest.mark.parametrize("model", ["digits", "mlp"])
def test_the_described_request_works(server, model):
    described = subprocess.run(
        [project_program("ensembled"), "describe", server.url, model, "--json"],
        env=project_environment(),
        capture_output=True,
        check=True,
    )
    program = json.loads(described.stdout)["examples"]["tritonclient"]
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    assert ended.stdout.startswith("[[")
