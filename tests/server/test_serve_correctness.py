"""Answers through the whole server equal the members run directly and combined by NumPy."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from crowd import Load
from digits import SUMMARIES, held_out
from serving import Client, configuration, devices, fake, running

from workers.builder import build_models_with_progress, find_recipe

pytestmark = pytest.mark.process

DIGITS = Path(__file__).parents[2] / "configs/digits.yaml"
MEMBERS = [name.removeprefix("digits_") for name in SUMMARIES]


def softmax(logits):
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)


@pytest.fixture(scope="module")
def networks():
    """Each member, run in this process: name -> a function from pixels to probabilities."""
    found = {}
    recipes = [find_recipe(f"../examples/models/digits.py:{n}", DIGITS.parent) for n in SUMMARIES]
    for recipe, model in build_models_with_progress(recipes).items():
        session = onnxruntime.InferenceSession(str(model.path), providers=["CPUExecutionProvider"])
        found[recipe.name.removeprefix("digits_")] = lambda x, session=session: softmax(
            session.run(None, {"x": x})[0]
        )
    return found


@pytest.fixture(scope="module")
def digits(tmp_path_factory, networks):
    with running(DIGITS, tmp_path_factory.mktemp("digits")) as server:
        yield server


def direct(networks, model, x):
    chosen = networks if model == "digits" else {model: networks[model]}
    return np.mean([network(x) for network in chosen.values()], axis=0)


def test_random_requests_of_many_clients_are_answered_as_directly(digits, networks):
    pixels, _ = held_out()

    def ask(number):
        generator = np.random.default_rng(number)
        client = Client(digits.url)
        try:
            for count in range(12):
                rows = int(generator.choice([1, 2, 3, 7, 32, 33, 100, 250]))
                x = pixels[generator.integers(0, len(pixels), rows)]
                x = x + generator.random(x.shape, np.float32)  # unlike any other request's
                model = "digits" if count % 2 else MEMBERS[(number + count) % len(MEMBERS)]
                answer = client.predict(model, x, binary=bool(generator.integers(2)))
                np.testing.assert_allclose(
                    answer.values, direct(networks, model, x), rtol=1e-4, atol=1e-6
                )
                assert answer.members == (MEMBERS if model == "digits" else [model])
                assert answer.json["parameters"]["degraded"] is False
        finally:
            client.close()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(ask, range(8)))


def test_accuracy_on_digits_that_no_network_has_seen(digits):
    pixels, labels = held_out()
    accuracy = {
        model: float((digits.predict(model, pixels).values.argmax(axis=1) == labels).mean())
        for model in [*MEMBERS, "digits"]
    }
    print("\n" + ", ".join(f"{model} {share:.2%}" for model, share in accuracy.items()))
    best = max(accuracy[member] for member in MEMBERS)
    assert all(accuracy[member] > 0.94 for member in MEMBERS)
    assert accuracy["digits"] >= best


def test_thousands_of_requests_each_get_their_own_answer(serve):
    members = {name: fake(3 * i) for i, name in enumerate("abc")}
    server = serve(configuration(members, on=2))

    def check(answer, x):
        np.testing.assert_array_equal(answer.values, x + 3)
        assert answer.members == ["a", "b", "c"]

    with Load(server, "all", check, clients=12, rows=40) as load:
        load.wait_answers(3000)
        load.stop()


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A server with an arena of a few hundred rows, four devices' worth of different batches."""
    config = configuration(
        {"a": fake(0, batch_size=4), "b": fake(6, batch_size=16), "c": fake(3, batch_size=1)},
        ensemble={"rule": "median"},
        on=2,
        arena_bytes=(64 << 10) + 30_000,
    )
    config["ensembles"]["pair"] = {
        "members": ["b", "a"],
        "rule": "weighted_mean",
        "weights": {"a": 1, "b": 2},
    }
    with running(config, tmp_path_factory.mktemp("small")) as server:
        yield server


ADDED = {"all": 3.0, "pair": 4.0, "a": 0.0, "b": 6.0, "c": 3.0}


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("model", sorted(ADDED))
def test_requests_of_every_size(small, model, binary):
    capacity = small.client.get(f"/v2/models/{model}/config").json()["max_batch_size"]
    assert 64 < capacity < 1000
    for rows in (1, 2, 4, 5, 17, 63, 64, 65, 129, capacity, capacity + 1, 3 * capacity + 7):
        x = np.arange(2 * rows, dtype=np.float32).reshape(rows, 2) + rows
        answer = small.predict(model, x, binary=binary)
        np.testing.assert_allclose(answer.values, x + np.float32(ADDED[model]), rtol=1e-6)
        assert answer.json["outputs"][0]["shape"] == [rows, 2]


def test_many_requests_bigger_than_the_arena_at_once(small):
    def ask(number):
        client = Client(small.url)
        try:
            for count in range(3):
                x = np.full((1500, 2), 10_000 * number + count, np.float32)
                x[:, 1] = np.arange(1500)
                model = sorted(ADDED)[(number + count) % len(ADDED)]
                np.testing.assert_allclose(
                    client.predict(model, x).values, x + np.float32(ADDED[model]), rtol=1e-6
                )
        finally:
            client.close()

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(ask, range(6)))


def test_zero_rows_are_refused(small):
    for binary in (False, True):
        answer = small.predict("all", np.zeros((0, 2)), binary=binary)
        assert answer.status == 400
        assert "zero rows" in answer.error


def test_members_of_several_inputs_and_arenas(serve):
    two = {"model": "fake", "fake": {"inputs": {"p": [2], "q": [2, 2]}, "outputs": 3, "add": 1}}
    config = {
        "members": {"two": two, "one": fake(5)},
        "devices": devices(1),
        "server": {"grpc_port": 0},
    }
    server = serve(config)
    document = {
        "inputs": [
            {"name": "q", "shape": [2, 2, 2], "datatype": "FP32", "data": list(range(8))},
            {"name": "p", "shape": [2, 2], "datatype": "FP32", "data": [[1, 2], [3, 4]]},
        ]
    }
    response = server.client.http.post("/v2/models/two/versions/1/infer", json=document)
    assert response.json()["outputs"][0]["data"] == [2, 3, 2, 4, 5, 4]
    np.testing.assert_array_equal(server.predict("one", [[1, 2]]).values, [[6, 7]])
