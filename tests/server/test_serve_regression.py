"""Ensembles of distributions, end to end: every protocol and client, and what is refused."""

import asyncio
import json

import numpy as np
import pytest
from ensembled_client import AsyncEnsembleClient, EnsembleClient, RequestRejected
from networks import write_linear, write_network
from scipy import stats
from serving import ask_outputs, configuration, post_outputs, running

pytestmark = pytest.mark.process

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(0, 1, (6, 3)).astype(np.float32)
MEANS = RANDOM.normal(0, 1, (3, 3))
SPREADS = RANDOM.normal(0, 0.3, (3, 3))
QUANTILES = RANDOM.normal(0, 1, (2, 3, 3))
LEVELS = [0.1, 0.5, 0.9]
WEIGHTS = [1, 2, 1]
SHARES = np.array(WEIGHTS) / 4
ROWS = 39
SCORES = [0.1 * rank for rank in range(1, ROWS + 1)]

NORMALS = {
    "both": {"output": "normal", "output_name": "both", "spread": "std"},
    "two": {"output": "normal", "output_name": "mean", "spread_output": "positive"},
    "logs": {
        "outputs": {
            "mean": {
                "name": "output",
                "as": "normal",
                "spread": "log_variance",
                "spread_output": "log",
            }
        }
    },
}


def write_members(folder):
    """Write networks that describe a mean and a spread, each in another way, and others."""
    nodes = [
        ("MatMul", ["x", "w"], "column", {}),
        ("MatMul", ["x", "v"], "logs", {}),
        ("Exp", ["logs"], "exponentials", {}),
        ("Squeeze", ["column", "axes"], "mean", {}),
        ("Squeeze", ["logs", "axes"], "log", {}),
        ("Squeeze", ["exponentials", "axes"], "positive", {}),
        ("Concat", ["column", "exponentials"], "both", {"axis": 1}),
    ]
    for i, name in enumerate(NORMALS):
        write_network(
            folder / f"{name}.onnx",
            nodes,
            x=("FP32", [3]),
            outputs=dict.fromkeys(("mean", "log", "positive", "both"), "FP32"),
            constants={
                "w": MEANS[:, i : i + 1].astype(np.float32),
                "v": SPREADS[:, i : i + 1].astype(np.float32),
                "axes": np.array([1]),
            },
        )
    for i, weights in enumerate(QUANTILES):
        write_linear(folder / f"quantiles{i}.onnx", weights)


def conformal(folder, name, method, config, *, scores=(SCORES,)):
    """Write what could have been fitted for an ensemble, and return the key for it."""
    kinds = {"quantiles": ("quantiles", LEVELS), "normal": ("normal", []), "values": ("values", [])}
    kind, levels = kinds[config.pop("kind")]
    document = {
        "about": "made up",
        "fitted_for": {
            "members": config["members"],
            "output": kind,
            "levels": levels,
            "augment": [{"augment": None, "augment_rule": "mean"}] * len(config["members"]),
            "temperatures": [1.0] * len(config["members"]),
            "rule": config.get("rule", "mean"),
            "weights": [float(one) for one in config.get("weights", [])],
            "trim": None,
            "cascade": [],
            "confidence": [],
        },
        "conformal": {
            "method": method,
            "rows": ROWS,
            "ranks": list(range(1, ROWS + 1)),
            "scores": scores,
        },
    }
    (folder / f"{name}.json").write_text(json.dumps(document))
    return {**config, "conformal": f"{name}.json"}


def write_config(folder):
    write_members(folder)
    members = {name: {"model": f"{name}.onnx", **keys} for name, keys in NORMALS.items()}
    for i in range(2):
        quantiles = {"output": "quantiles", "levels": LEVELS}
        members[f"quantiles{i}"] = {"model": f"quantiles{i}.onnx", **quantiles}
    for name in NORMALS:
        members[f"point_{name}"] = {"model": f"{name}.onnx", "output_name": "mean"}
    config = configuration(members)
    mixture = {"members": [*NORMALS], "rule": "mixture", "weights": WEIGHTS, "quorum": 2}
    points = {"members": [f"point_{name}" for name in NORMALS]}
    quantiles = {"members": ["quantiles0", "quantiles1"]}
    config["ensembles"] = {
        "mixed": mixture,
        "points": {**points, "rule": "mixture"},
        "quantiles": quantiles,
        "fitted_mixed": conformal(folder, "mixed", "normalised", {"kind": "normal", **mixture}),
        "fitted_points": conformal(folder, "points", "absolute", {"kind": "values", **points}),
        "fitted_quantiles": {
            **conformal(folder, "quantiles", "cqr", {"kind": "quantiles", **quantiles}),
            "coverage": 0.5,
        },
    }
    return config


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("regression")
    with running(write_config(folder), folder) as server:
        yield server


def members_of(x):
    """The members' means and variances, [members, rows]."""
    logs = (x @ SPREADS).T
    return (x @ MEANS).T, np.stack([np.exp(2 * logs[0]), np.exp(logs[1]), np.exp(logs[2])])


def moments(x):
    means, variances = members_of(x.astype(np.float64))
    mean = SHARES @ means
    return mean, SHARES @ variances, SHARES @ (means - mean) ** 2


def check_levels(found, x, levels):
    """That quantiles [rows, levels] leave these shares of the mixture below them."""
    means, variances = members_of(x.astype(np.float64))
    below = stats.norm.cdf(found, means[..., None], np.sqrt(variances)[..., None])
    shares = np.tensordot(SHARES, below, 1)
    np.testing.assert_allclose(shares, np.broadcast_to(levels, shares.shape), atol=1e-5)


def test_a_mixture_and_its_parts(server):
    names = ["output", "aleatoric", "epistemic", "variance"]
    _, found = ask_outputs(server, "mixed", names, X)
    mean, aleatoric, epistemic = moments(X)
    np.testing.assert_allclose(found["output"], mean, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found["aleatoric"], aleatoric, rtol=1e-4)
    np.testing.assert_allclose(found["epistemic"], epistemic, rtol=1e-4)
    np.testing.assert_allclose(found["variance"], aleatoric + epistemic, rtol=1e-4)
    _, found = ask_outputs(server, "points", ["output", "epistemic"], X)
    means, _ = members_of(X)
    np.testing.assert_allclose(found["output"], means.mean(axis=0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found["epistemic"], means.var(axis=0), rtol=1e-4)


def test_intervals_and_quantiles_of_a_mixture(server):
    options = {"coverage": 0.8, "quantiles": [0.1, 0.5, 0.9]}
    _, found = ask_outputs(server, "mixed", ["interval", "quantiles", "output.two"], X, **options)
    check_levels(found["quantiles"], X, LEVELS)
    np.testing.assert_array_equal(found["interval"], found["quantiles"][:, [0, 2]])
    means, variances = members_of(X)
    expected = np.stack([means[1], variances[1]], axis=-1)
    np.testing.assert_allclose(found["output.two"], expected, rtol=1e-4, atol=1e-5)


def test_a_subset_of_the_members_is_the_mixture_of_these(server):
    _, found = ask_outputs(server, "mixed", ["output", "variance"], X, members="both,logs")
    means, variances = (one[[0, 2]] for one in members_of(X.astype(np.float64)))
    np.testing.assert_allclose(found["output"], means.mean(axis=0), rtol=1e-4, atol=1e-5)
    expected = variances.mean(axis=0) + means.var(axis=0)
    np.testing.assert_allclose(found["variance"], expected, rtol=1e-4)


def test_many_rows_are_computed_in_a_thread(server):
    x = np.tile(X, (60, 1))
    _, found = ask_outputs(server, "mixed", ["interval"], x, coverage=0.5)
    check_levels(found["interval"], x, [0.25, 0.75])


def test_quantiles_are_averaged_and_do_not_cross(server):
    options = {"coverage": 0.4, "quantiles": "0.3,0.5"}
    _, found = ask_outputs(server, "quantiles", ["output", "interval", "quantiles"], X, **options)
    expected = np.sort(X @ QUANTILES, axis=-1).mean(axis=0)
    np.testing.assert_allclose(found["output"], expected, rtol=1e-4, atol=1e-5)
    halves = (expected[:, :2] + expected[:, 1:]) / 2
    np.testing.assert_allclose(found["interval"], halves, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found["quantiles"][:, 0], halves[:, 0], rtol=1e-4, atol=1e-5)


def test_fitted_intervals(server):
    mean, aleatoric, epistemic = moments(X)
    # Of 39 rows, a coverage of 0.5 is the 20th score: 2.
    _, found = ask_outputs(server, "fitted_mixed", ["interval"], X, coverage=0.5)
    deviation = np.sqrt(aleatoric + epistemic)
    expected = np.stack([mean - 2 * deviation, mean + 2 * deviation], axis=-1)
    np.testing.assert_allclose(found["interval"], expected, rtol=1e-4, atol=1e-5)
    _, found = ask_outputs(server, "fitted_points", ["output", "interval"], X)
    width = np.diff(found["interval"])[:, 0]
    np.testing.assert_allclose(width, 7.2, rtol=1e-5)
    _, found = ask_outputs(server, "fitted_quantiles", ["output", "interval"], X)
    expected = found["output"][:, [0, 2]] + [-2, 2]
    np.testing.assert_allclose(found["interval"], expected, rtol=1e-5)


def test_every_protocol_and_client_gives_the_same(server):
    options = {"outputs": ["interval", "quantiles"], "coverage": 0.9, "quantiles": [0.05, 0.95]}
    found = []
    for url in (server.url, f"grpc://{server.grpc}"):
        with EnsembleClient(url) as client:
            for _ in range(2):  # the second by its plan
                found.append(client.predict("mixed", X, uncertainty=True, **options))
            assert client.config("mixed") is not None
            with pytest.raises(RequestRejected, match="calibrated for all members"):
                client.predict("fitted_mixed", X, members=["two"], outputs=["interval"])

        async def ask(url=url):
            async with AsyncEnsembleClient(url) as client:
                return await client.predict("mixed", X, uncertainty=True, **options)

        found.append(asyncio.run(ask()))
    first = found[0]
    assert sorted(first.uncertainty) == ["aleatoric", "epistemic", "variance"]
    np.testing.assert_array_equal(first.outputs["interval"], first.outputs["quantiles"])
    for other in found[1:]:
        assert other.outputs.keys() == first.outputs.keys()
        for name, values in first.outputs.items():
            np.testing.assert_allclose(other.outputs[name], values, rtol=1e-5)
    _, by_json = ask_outputs(server, "mixed", ["interval"], X)
    np.testing.assert_allclose(by_json["interval"], first.outputs["interval"], rtol=1e-5)


def test_the_configuration_lists_the_outputs(server):
    document = server.client.get("/v2/models/mixed/config").json()
    shapes = {one["name"]: one["shape"] for one in document["ensemble"]["extra_outputs"]}
    assert shapes["variance"] == [-1]
    assert shapes["interval"] == [-1, 2]
    assert shapes["quantiles"] == [-1, -1]


@pytest.mark.parametrize(
    ("model", "output", "parameters", "complaint"),
    [
        ("mixed", "interval", {"coverage": 1}, "coverage is a number above 0 and below 1, not 1"),
        ("mixed", "output", {"coverage": 0.9}, "which is not requested"),
        ("mixed", "quantiles", {}, "which ones"),
        ("mixed", "quantiles", {"quantiles": "0.9,0.1"}, "ascends"),
        ("mixed", "interval", {"coverag": 0.9}, "did you mean 'coverage'"),
        ("points", "interval", {}, "no output 'interval', it has output, variance, epistemic"),
        ("quantiles", "interval", {"coverage": 0.9}, "outside the quantiles"),
        (
            "fitted_mixed",
            "interval",
            {"coverage": 0.99},
            "needs 99 calibration rows, there were 39",
        ),
    ],
)
def test_what_cannot_be_is_refused(server, model, output, parameters, complaint):
    answer = post_outputs(server, model, [output], X, **parameters)
    assert answer.status == 400
    assert complaint in answer.error
