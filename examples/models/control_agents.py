"""Agents for control problems: small networks, trained by the cross-entropy method in a second.

A problem, a size and a seed flow in, the weights of a network with one hidden layer flow out. All
agents of a generation play at once.

Sources: Rubinstein, "The cross-entropy method for combinatorial and continuous optimization"
(1999); Szita and Lorincz, "Learning Tetris using the noisy cross-entropy method" (Neural
Computation 18, 2006), for the noise that keeps the search from narrowing too early.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from control_problems import Policy, Problem, returns, starts

__all__ = ["Agents", "Training", "train"]

Array = npt.NDArray[np.floating]


@dataclass(frozen=True)
class Training:
    """How long to search.

    Attributes:
        generations: how many rounds.
        population: agents in a round; the best fifth of them are the parents of the next.
        episodes: that each of them plays in a round, all from the same start states.
        deviation: standard deviation of the weights at first.
        noise: added to the deviation in the first round, less in each, none in the last.
    """

    generations: int
    population: int
    episodes: int
    deviation: float
    noise: float = 0.1


class Agents:
    """Networks of one size: ``tanh(x W1 + b1) W2 + b2``, bounded by ``tanh`` if continuous.

    Attributes:
        w1: [agents, observed, hidden], for observations in their own units.
        b1: [agents, 1, hidden].
        w2: [agents, hidden, outputs].
        b2: [agents, 1, outputs].
    """

    def __init__(self, problem: Problem, hidden: int, weights: Array) -> None:
        observed, outputs = len(problem.scales), problem.outputs
        shapes = ((observed, hidden), (1, hidden), (hidden, outputs), (1, outputs))
        ends = np.cumsum([rows * columns for rows, columns in shapes])
        parts = np.split(weights, ends[:-1], axis=1)
        w1, self.b1, self.w2, self.b2 = (
            part.reshape(-1, *shape) for part, shape in zip(parts, shapes, strict=True)
        )
        self.w1 = w1 / np.array(problem.scales)[:, np.newaxis]
        self._problem = problem

    @staticmethod
    def weights(problem: Problem, hidden: int) -> int:
        """How many weights one agent has."""
        return hidden * (len(problem.scales) + 1 + problem.outputs) + problem.outputs

    def __call__(self, observations: Array) -> Array:
        """Map observations [agents * n, observed], the first agent's first, to [..., outputs].

        Logits of actions if the problem is discrete, else the action.
        """
        own = observations.reshape(len(self.w1), -1, observations.shape[-1])
        answers: Array = np.tanh(own @ self.w1 + self.b1) @ self.w2 + self.b2
        if not self._problem.is_discrete:
            answers = self._problem.bound * np.tanh(answers)
        return answers.reshape(len(observations), -1)


def train(problem: Problem, hidden: int, seed: int, training: Training) -> Agents:
    """Train one agent; the same again for the same arguments.

    Args:
        problem: what it learns.
        hidden: the width of its hidden layer.
        seed: of all that is random.
        training: how long.

    Returns:
        One agent: the mean of the last parents.
    """
    random = np.random.default_rng(seed)
    count = Agents.weights(problem, hidden)
    mean, deviation = np.zeros(count), np.full(count, training.deviation)
    for generation in range(training.generations):
        weights = mean + deviation * random.normal(size=(training.population, count))
        begin = starts(problem, training.episodes, random)
        policy: Policy = Agents(problem, hidden, weights)
        scores = returns(problem, policy, np.tile(begin, (training.population, 1)))
        scores = scores.reshape(training.population, -1).mean(axis=1)
        parents = weights[np.argsort(-scores, kind="stable")[: training.population // 5]]
        left = 1 - (generation + 1) / training.generations
        mean, deviation = parents.mean(axis=0), parents.std(axis=0) + training.noise * left
    return Agents(problem, hidden, mean[np.newaxis])
