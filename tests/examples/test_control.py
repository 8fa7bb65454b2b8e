"""Control problems, the agents that are trained for them, and what their ensembles are worth."""

import re
import subprocess
import sys
from pathlib import Path

import control
import control_returns
import numpy as np
import onnxruntime
import pytest
import yaml
from control_agents import Agents, Training, train
from control_problems import CART_POLE, PENDULUM, PROBLEMS, hanging, returns, starts

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "configs/control.yaml"
BRIEF = Training(generations=2, population=10, episodes=2, deviation=1.0)


def always(*answer):
    return lambda observations: np.tile(np.array(answer, float), (len(observations), 1))


def test_a_push_accelerates_the_cart_and_tips_the_pole():
    after, reward, over = CART_POLE.step(np.zeros((2, 4)), np.array([[0.0, 1.0], [1.0, 0.0]]))
    # Force 10 N on 1.1 kg: 400/41 m/s^2 for the cart, -600/41 rad/s^2 for the pole.
    wanted = 0.02 * np.array([[0, 400 / 41, 0, -600 / 41], [0, -400 / 41, 0, 600 / 41]])
    np.testing.assert_allclose(after, wanted)
    assert reward.tolist() == [1, 1]
    assert over.tolist() == [False, False]


def test_a_cart_pole_that_falls_ends_its_episode_and_no_other():
    begin = np.array([[0, 0, 0, 0], [0, 0, 0.3, 0], [2.5, 0, 0, 0], [0, 0, 0.2, 1]], float)
    found = returns(CART_POLE, always(0, 1), begin)
    assert found[1:].tolist() == [0, 0, 0]
    assert 5 < found[0] < 20
    np.testing.assert_array_equal(found[:1], returns(CART_POLE, always(0, 1), begin[:1]))


def test_a_simple_controller_balances_the_pole():
    def controller(observations):
        position, speed, tilt, rate = observations.T
        score = 0.1 * position + 0.2 * speed + 3 * tilt + 0.5 * rate
        return np.stack([-score, score], axis=1)

    begin = 0.05 * starts(CART_POLE, 20, np.random.default_rng(0))
    assert returns(CART_POLE, controller, begin).tolist() == [500] * 20


def test_a_pendulum_that_nobody_turns_keeps_hanging():
    found = returns(PENDULUM, always(0), hanging())
    np.testing.assert_allclose(found, -200 * np.pi**2)


def test_a_pendulum_is_cheapest_upright_and_its_torque_is_bounded():
    up = np.zeros((1, 2))
    np.testing.assert_array_equal(returns(PENDULUM, always(0), up), [0])
    strong = [PENDULUM.step(up, np.array([[torque]]))[0] for torque in (2.0, 50.0)]
    np.testing.assert_array_equal(*strong)
    np.testing.assert_allclose(strong[0], [[0.05 * 0.3, 0.3]])
    around = np.array([[0.5, 1.0], [0.5 - 4 * np.pi, 1.0]])
    costs = PENDULUM.step(around, np.zeros((2, 1)))[1]
    np.testing.assert_allclose(costs, [-0.35, -0.35])


@pytest.mark.parametrize("problem", PROBLEMS.values(), ids=PROBLEMS)
def test_the_same_seed_trains_the_same_agent(problem):
    first, again, other = (train(problem, 4, seed, BRIEF) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.w1, again.w1)
    np.testing.assert_array_equal(first.b2, again.b2)
    assert not np.allclose(first.w1, other.w1)


def test_agents_of_one_size_answer_as_each_does_alone():
    weights = np.random.default_rng(0).normal(size=(3, Agents.weights(PENDULUM, 5)))
    seen = np.random.default_rng(1).normal(size=(3 * 4, 3)).astype(np.float32)
    together = Agents(PENDULUM, 5, weights)(seen)
    assert together.shape == (12, 1)
    assert np.abs(together).max() <= 2
    for index in range(3):
        rows = slice(4 * index, 4 * index + 4)
        alone = Agents(PENDULUM, 5, weights[index : index + 1])(seen[rows])
        np.testing.assert_allclose(together[rows], alone)


@pytest.mark.parametrize("problem", PROBLEMS.values(), ids=PROBLEMS)
def test_the_model_answers_as_the_agent_does(problem, tmp_path, monkeypatch):
    monkeypatch.setitem(control.TRAINING, problem.name, BRIEF)
    stages = []
    path = tmp_path / "agent.onnx"
    assert getattr(control, f"{problem.name}_1")(path, stages.append) is None
    assert stages == ["training", "writing"]
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    seen = problem.observe(starts(problem, 7, np.random.default_rng(3)))
    (answer,) = session.run(None, {"observation": seen})
    agent = train(problem, control.HIDDEN[problem.name][1], 1, BRIEF)
    assert answer.dtype == np.float32
    np.testing.assert_allclose(answer, agent(seen), rtol=1e-4, atol=1e-5)


def test_two_want_left_and_two_right():
    agents = [always(torque) for torque in (-2.0, -1.9, 1.9, 2.0)]
    seen = np.zeros((1, 3), np.float32)
    answers = {
        rule: control_returns.CombinedPolicy(agents, rule)(seen).item()
        for rule in ("mean", "medoid")
    }
    assert answers == {"mean": 0, "medoid": -1.9}


def test_weights_fall_with_the_cost():
    idle, strong = always(0), always(2)
    weights = control_returns.weigh(PENDULUM, [idle, idle, strong], episodes=5)
    assert weights[0] == weights[1] != weights[2]
    np.testing.assert_allclose(weights.mean(), 1, atol=0.01)


def test_the_configuration_has_all_agents():
    config = yaml.safe_load(CONFIG.read_text())
    wanted = [name for problem in PROBLEMS.values() for name in control.names(problem)]
    assert list(config["members"]) == wanted
    recipes = [member["model"]["recipe"] for member in config["members"].values()]
    assert recipes == [f"../examples/models/control.py:{name}" for name in wanted]
    assert all(callable(getattr(control, name)) for name in wanted)
    for name, ensemble in config["ensembles"].items():
        problem = PROBLEMS[name.partition("-")[0]]
        assert tuple(ensemble["members"]) == control.names(problem)
        assert ensemble["rule"] in control_returns.RULES_OF[problem.name]


@pytest.mark.slow
@pytest.mark.parametrize("problem", PROBLEMS.values(), ids=PROBLEMS)
def test_ensembles_play_better_than_their_average_agent(problem):
    agents = control_returns.exported(problem)
    begin = starts(problem, 100, np.random.default_rng(control_returns.TEST_SEED))
    alone, together = control_returns.compare(problem, agents, begin)
    for rule, found in together.items():
        assert found.mean() > np.mean(alone), rule


@pytest.mark.slow
def test_prints_tables():
    command = [sys.executable, "examples/models/control_returns.py", "--episodes", "5"]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=True
    )
    for name in (*control.names(CART_POLE), *control.names(PENDULUM), "vote", "medoid"):
        assert re.search(rf"{name}\b.* -?\d+ ", done.stdout), name
