"""A member runs as its fastest variant that the user allows, and every answer says so."""

import json
import signal

import numpy as np
import pytest
import yaml
from ensembled_client import EnsembleClient
from networks import write_linear, write_network
from serving import configuration, fake, wait_for

pytestmark = pytest.mark.process

X = np.array([[1.0, 2.0]], np.float32)
SIZE = 512


def write_slow(path):
    """Write ``y = 2 * x``, with so many operations that no noise makes it fast."""
    wide = np.zeros((2, SIZE), np.float32)
    wide[:, :2] = 2 * np.eye(2)
    square = np.eye(SIZE, dtype=np.float32)
    chain = [("MatMul", [f"h{i}", "square"], f"h{i + 1}", {}) for i in range(40)]
    return write_network(
        path,
        [("MatMul", ["x", "wide"], "h0", {}), *chain, ("MatMul", ["h40", "narrow"], "y", {})],
        x=("FP32", [2]),
        outputs={"y": "FP32"},
        constants={"wide": wide, "square": square, "narrow": np.eye(SIZE, 2, dtype=np.float32)},
    )


def member(tmp_path, **changes):
    """A slow member that doubles its input, and a fast variant that triples it."""
    model, variant = tmp_path / "slow.onnx", tmp_path / "fast.onnx"
    write_slow(model)
    write_linear(variant, 3 * np.eye(2, dtype=np.float32))
    return {
        "model": str(model),
        "batch_size": 1,
        "variants": {
            "int8": {"model": str(variant), "runs_on": "cpu", "disagreement": 0.01},
            "worse": {"model": str(variant), "disagreement": 0.5},
            "fp16": {"model": str(variant), "runs_on": "gpu", "disagreement": 0.0},
        },
        "may_differ": 0.02,
        **changes,
    }


def test_the_fastest_allowed_variant_answers_and_answers_say_so(serve, tmp_path):
    server = serve(configuration({"a": member(tmp_path), "b": fake(1)}))
    kind = "cpu-1"
    running = {"a": {kind: "int8"}}
    for _ in range(2):  # the second takes the short way
        answer = server.predict("a", X)
        np.testing.assert_array_equal(answer.values, 3 * X)
        assert json.loads(answer.json["parameters"]["variants"]) == running
    assert "variants" not in server.predict("b", X).json["parameters"]
    config = server.client.get("/v2/models/all/config").json()
    assert config["ensemble"]["variants"] == running
    for url in (f"http://127.0.0.1:{server.port}", f"grpc://{server.grpc}"):
        with EnsembleClient(url) as client:
            for _ in range(2):
                found = client.predict("all", {"x": X})
                assert found.variants == running
                np.testing.assert_allclose(found.values, (3 * X + X + 1) / 2)
            assert client.predict("b", {"x": X}).variants == {}
    assert "members.a.variants.worse is not used" in server.stderr
    assert f"a runs as int8 on {kind}" in server.stderr

    # Another file of the variant costs what that before did; without a permission none is used.
    write_linear(tmp_path / "fast.onnx", 4 * np.eye(2, dtype=np.float32))
    server.process.send_signal(signal.SIGHUP)
    wait_for(lambda: np.array_equal(server.predict("a", X).values, 4 * X), "the new variant")
    path = server.log.with_name("config.yaml")
    document = yaml.safe_load(path.read_text())
    document["members"]["a"]["may_differ"] = 0
    path.write_text(yaml.safe_dump(document))
    server.process.send_signal(signal.SIGHUP)
    wait_for(lambda: np.array_equal(server.predict("a", X).values, 2 * X), "its own model")
    assert "variants" not in server.predict("a", X).json["parameters"]
