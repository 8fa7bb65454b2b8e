"""`server.watch`: what is served follows its files."""

import numpy as np
import pytest
import yaml
from networks import write_linear
from serving import configuration, fake, wait_for

pytestmark = pytest.mark.process

X = np.ones((1, 2), np.float32)


def test_files_are_followed_and_what_is_broken_is_not_served(serve, tmp_path):
    def write(factor):
        write_linear(tmp_path / "new.onnx", factor * np.eye(2, dtype=np.float32))
        (tmp_path / "new.onnx").replace(tmp_path / "m.onnx")

    def is_served(model, value):
        wait_for(
            lambda: server.predict(model, X).values.tolist() == [[value, value]],
            f"{model} to answer {value}",
        )

    write(2)
    members = {"m": {"model": str(tmp_path / "m.onnx")}, "n": fake(1)}
    document = configuration(members, watch=True, watch_debounce_s=0.05)
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(document))
    server = serve(config, ENSEMBLED_CACHE=str(tmp_path / "cache"))
    is_served("m", 2.0)
    write(3)
    is_served("m", 3.0)
    whole = (tmp_path / "m.onnx").read_bytes()
    (tmp_path / "m.onnx").write_bytes(whole[:40])  # as while it is being copied
    wait_for(lambda: "nothing is changed: member m" in server.stderr, "the refusal")
    is_served("m", 3.0)
    write(4)
    is_served("m", 4.0)
    document["members"]["n"] = fake(5)
    config.write_text(yaml.safe_dump(document))
    is_served("n", 6.0)
    assert "changes detected" not in server.stderr
