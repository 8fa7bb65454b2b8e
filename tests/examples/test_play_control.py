"""The example for agents against the real server."""

import re
import subprocess
import sys
from pathlib import Path

import control_returns
import numpy as np
import pytest
from control_problems import PENDULUM, PROBLEMS, starts
from serving import devices, running, with_absolute_recipes

pytestmark = [pytest.mark.process, pytest.mark.slow]

ROOT = Path(__file__).parents[2]
EPISODES = 10


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    config = with_absolute_recipes(ROOT / "configs/control.yaml")
    config |= {"devices": devices(1), "placement": {"profile_s": 0}}
    with running(config, tmp_path_factory.mktemp("control")) as server:
        yield server


@pytest.fixture(scope="module")
def said(server):
    """What the example prints."""
    command = [sys.executable, "examples/play_control.py", server.url]
    command += ["--episodes", str(EPISODES)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("problem", PROBLEMS.values(), ids=PROBLEMS)
def test_policies_play_through_the_server_as_they_do_without_one(problem, said):
    part = said[said.index(f"{problem.name}: mean return of {EPISODES} episodes") :]
    agents = control_returns.exported(problem)
    begin = starts(problem, EPISODES, np.random.default_rng(control_returns.TEST_SEED))
    alone, together = control_returns.compare(problem, agents, begin)
    names = {"mean": problem.name, "weighted_mean": f"{problem.name}-weighted"}
    wanted = {f"{problem.name}_{index}": found for index, found in enumerate(alone)}
    wanted |= {names.get(rule, f"{problem.name}-{rule}"): one for rule, one in together.items()}
    for name, found in wanted.items():
        match = re.search(rf"^  {name} +(-?[\d.]+)$", part, re.MULTILINE)
        assert match, name
        # Batches of another size may round otherwise, and a tipping pole makes much of it.
        assert float(match[1]) == pytest.approx(found.mean(), rel=0.25), name


def test_the_medoid_is_what_an_agent_proposes(said):
    torques = re.search(r"torques \(N m\) of the agents (.*)", said)[1].split(", ")
    mean, medoid = re.search(r"their mean (.*), their medoid (.*)", said).groups()
    assert medoid in torques
    assert len(torques) == 4
    assert float(mean) == pytest.approx(np.mean([float(one) for one in torques]), abs=0.02)


def test_actions_are_what_the_rules_make_of_the_agents(server):
    seen = PENDULUM.observe(starts(PENDULUM, 50, np.random.default_rng(5)))
    agents = control_returns.exported(PENDULUM)
    for model, rule in (("pendulum", "mean"), ("pendulum-medoid", "medoid")):
        answer = server.client.predict(model, seen, name="observation")
        wanted = control_returns.CombinedPolicy(agents, rule)(seen)
        np.testing.assert_allclose(answer.values, wanted, atol=1e-4)
