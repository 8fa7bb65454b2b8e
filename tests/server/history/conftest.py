import pytest
import yaml

from server.config import load_config

FAKE = {"inputs": {"x": [4]}, "outputs": 2}


@pytest.fixture
def config_of(tmp_path):
    """Makes a configuration of one member."""

    def make(name, **server):
        path = tmp_path / name
        path.write_text(
            yaml.safe_dump({"members": {"m": {"model": "fake", "fake": FAKE}}, "server": server})
        )
        return load_config(path)

    return make
