"""A server remembers what it has served; `ensembled history` shows it."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from serving import configuration, fake

ENSEMBLED = str(Path(sys.executable).with_name("ensembled"))
pytestmark = pytest.mark.process


def history(config, *arguments, **environment):
    command = [ENSEMBLED, "history", str(config), *arguments]
    return subprocess.run(
        command, check=False, capture_output=True, text=True, timeout=60, env=environment
    )


def test_what_was_served_is_shown_after_the_server_has_ended(serve, tmp_path):
    config = configuration({"a": fake(1), "b": fake(3)})
    database = tmp_path / "history.sqlite"
    server = serve(config, ENSEMBLED_SERVER__HISTORY=str(database))
    for _ in range(5):
        assert server.predict("all", np.ones((3, 2))).status == 200
    assert server.predict("a", np.ones((2, 2))).status == 200
    server.close()
    path = tmp_path / "shown.yaml"
    path.write_text(json.dumps({**config, "server": {"history": str(database)}}))
    shown = history(path, "--json")
    assert shown.returncode == 0, shown.stderr
    document = json.loads(shown.stdout)
    rows = {"all": 0, "a": 0}
    for window in document["windows"]:
        for name, model in window["models"].items():
            rows[name] += model["rows"]
            assert sum(model["times"]) == model["requests"]
    assert rows == {"all": 15, "a": 2}
    batches = [one for window in document["windows"] for one in window["instances"]]
    predicted = {name: 0 for name in "ab"}
    for one in batches:
        predicted[one["member"]] += one["rows"]
        assert sum(one["sizes"]) == one["batches"]
    assert predicted == {"a": 17, "b": 15}
    table = history(path)
    assert table.returncode == 0, table.stderr
    for words in ("by model", "by instance", "rows/s on average"):
        assert words in table.stdout
    nothing = history(path, "--hours", "0")
    assert nothing.returncode == 2
    assert "nothing was served in the last 0 hours" in nothing.stderr


def test_it_can_be_turned_off(serve, tmp_path):
    config = configuration({"a": fake(1)})
    server = serve(
        config, ENSEMBLED_SERVER__HISTORY="none", ENSEMBLED_CACHE=str(tmp_path / "cache")
    )
    assert server.predict("a", np.ones((1, 2))).status == 200
    server.close()
    assert not (tmp_path / "cache/history").exists()
    path = tmp_path / "shown.yaml"
    path.write_text(json.dumps({**config, "server": {"history": "none"}}))
    assert "server.history: none" in history(path).stderr
