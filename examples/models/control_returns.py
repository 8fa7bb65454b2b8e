"""How well agents and their ensembles play: ``python examples/models/control_returns.py``.

Runs in a process of its own, without a server: agents answer observations, the rules of
`workers.rules` combine their answers, and returns of whole episodes flow out. With ``--families N``
it trains N more groups of agents from other seeds, to see what is chance.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from control import HIDDEN, TRAINING, names
from control_agents import train
from control_problems import CART_POLE, PENDULUM, PROBLEMS, Policy, Problem, returns, starts

from workers.rules import RULES
from workers.worker.postprocess import probabilities

__all__ = ["RULES_OF", "CombinedPolicy", "compare", "exported", "trained", "weigh"]

Array = npt.NDArray[Any]

#: The rules that suit the actions of each problem.
RULES_OF = {
    CART_POLE.name: ("mean", "vote"),
    PENDULUM.name: ("mean", "weighted_mean", "medoid"),
}

#: Of the start states that agents are judged by, and of those that weights are taken from.
TEST_SEED, WEIGHTS_SEED = 1000, 2000


class CombinedPolicy:
    """A policy: what a rule makes of the answers of several agents."""

    def __init__(self, agents: Sequence[Policy], rule: str, weights: Array | None = None) -> None:
        self._agents, self._rule = agents, RULES[rule]
        self._weights = np.ones(len(agents)) if weights is None else weights

    def __call__(self, observations: Array) -> Array:
        """Observations [n, observed] in, the combined answers [n, outputs] out."""
        predictions = np.stack([agent(observations) for agent in self._agents])
        answers: Array = np.empty_like(predictions[0])
        self._rule(predictions, self._weights, answers)
        return answers


def exported(problem: Problem) -> list[Policy]:
    """The agents of the configuration, made if they are missing.

    Raises:
        RecipeError: if they can't be made.
    """
    import onnxruntime  # noqa: PLC0415

    from workers.builder import build_models_with_progress, find_recipe  # noqa: PLC0415

    def policy(path: str) -> Policy:
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        return _as_member(problem, lambda seen: session.run(None, {"observation": seen})[0])

    here = Path(__file__).parent
    recipes = [find_recipe(f"control.py:{name}", here) for name in names(problem)]
    return [policy(str(model.path)) for model in build_models_with_progress(recipes).values()]


def trained(problem: Problem, first_seed: int) -> list[Policy]:
    """Agents like those of the configuration with seeds from `first_seed` on."""
    return [
        _as_member(problem, train(problem, hidden, first_seed + index, TRAINING[problem.name]))
        for index, hidden in enumerate(HIDDEN[problem.name])
    ]


def weigh(problem: Problem, agents: Sequence[Policy], episodes: int = 100) -> Array:
    """Weights of agents whose returns are minus a cost: one over its mean in other episodes.

    Returns:
        [agents]; their mean is 1. They are rounded as one would write them down.
    """
    begin = starts(problem, episodes, np.random.default_rng(WEIGHTS_SEED))
    shares = -1 / np.array([returns(problem, agent, begin).mean() for agent in agents])
    rounded: Array = np.round(shares / shares.mean(), 2)
    return rounded


def compare(
    problem: Problem, agents: Sequence[Policy], begin: npt.NDArray[np.float64]
) -> tuple[list[Array], dict[str, Array]]:
    """Let each agent, and each rule over all of them, play the same episodes.

    Args:
        problem: what they play.
        agents: the members.
        begin: start states, [n, state].

    Returns:
        The returns of each agent's episodes, [n] each, and those of each rule by its name.
    """
    weights = {"weighted_mean": weigh(problem, agents)} if not problem.is_discrete else {}
    together = {
        rule: returns(problem, CombinedPolicy(agents, rule, weights.get(rule)), begin)
        for rule in RULES_OF[problem.name]
    }
    return [returns(problem, agent, begin) for agent in agents], together


def _as_member(problem: Problem, agent: Policy) -> Policy:
    """What the server makes of a member's output before it is combined."""
    if problem.is_discrete:
        return lambda observations: probabilities(agent(observations))
    return agent


def _table(problem: Problem, episodes: int) -> None:
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    agents = exported(problem)
    begin = starts(problem, episodes, np.random.default_rng(TEST_SEED))
    alone, together = compare(problem, agents, begin)
    title = f"{problem.name}: return of {episodes} episodes"
    table = Table("policy", "mean", "worst tenth", title=title)
    rows = dict(zip(names(problem), alone, strict=True))
    for name, found in {**rows, "average agent": np.mean(alone, axis=0), **together}.items():
        tenth = np.sort(found)[: max(1, episodes // 10)].mean()
        worst = "" if name == "average agent" else f"{tenth:.0f}"
        table.add_row(name, f"{found.mean():.0f}", worst, style="bold" if name in together else "")
    Console().print(table)
    if not problem.is_discrete:
        print("weights:", *weigh(problem, agents))


def _families(problem: Problem, count: int, episodes: int) -> None:
    """Print how often each rule beats the average agent and the best one."""
    begin = starts(problem, episodes, np.random.default_rng(TEST_SEED))
    size = len(HIDDEN[problem.name])
    means: list[Array] = []
    found: list[Mapping[str, float]] = []
    for family in range(1, count + 1):
        alone, together = compare(problem, trained(problem, family * 100), begin)
        means.append(np.mean(alone, axis=1))
        found.append({rule: float(values.mean()) for rule, values in together.items()})
    average, best = np.mean(means, axis=1), np.max(means, axis=1)
    print(f"{problem.name}: {count} ensembles of {size} agents of other seeds, mean returns")
    print(f"  average agent {average.mean():.0f}, best of each ensemble {best.mean():.0f}")
    for rule in RULES_OF[problem.name]:
        scores = np.array([one[rule] for one in found])
        wins = f"beats the average agent in {(scores > average).sum()}"
        print(f"  {rule} {scores.mean():.0f}: {wins}, the best in {(scores > best).sum()}")


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description="How well agents and ensembles of them play.")
    parser.add_argument("--episodes", type=int, default=100)
    parser.add_argument("--families", type=int, default=0, help="train so many more ensembles")
    options = parser.parse_args()
    for problem in PROBLEMS.values():
        _table(problem, options.episodes)
    for problem in PROBLEMS.values():
        if options.families:
            _families(problem, options.families, options.episodes)


if __name__ == "__main__":
    main()
