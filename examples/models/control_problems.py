"""Two small control problems, played by many at once: a cart-pole and a pendulum.

Used where agents are trained and where their returns are measured; pure NumPy. Start states and a
policy (observations in, actions out) flow in, returns flow out. A problem has no state of its own.

Sources: Barto, Sutton and Anderson, "Neuronlike adaptive elements that can solve difficult learning
control problems" (IEEE SMC 13, 1983), for the cart-pole, here without friction; Brockman et al.,
"OpenAI Gym" (arXiv 1606.01540), for the cost by which a pendulum's swing-up is judged.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["CART_POLE", "PENDULUM", "PROBLEMS", "Policy", "Problem", "hanging", "returns", "starts"]

States = npt.NDArray[np.float64]
Observations = npt.NDArray[np.float32]
#: Observations [n, observed] in, what an agent or an ensemble of them answers [n, outputs] out.
Policy = Callable[[Observations], npt.NDArray[np.floating]]

_GRAVITY = 9.8  # m/s^2

# The cart-pole of 1983.
_CART_KG, _POLE_KG, _HALF_POLE_M = 1.0, 0.1, 0.5
_FORCE_N, _CART_STEP_S = 10.0, 0.02
_TRACK_M, _TILT_RAD = 2.4, np.deg2rad(12)

# A rod of 1 kg and 1 m, turned at its end by a motor too weak to lift it at once.
_TORQUE_NM, _ROD_STEP_S, _ROD_SPEED = 2.0, 0.05, 8.0


@dataclass(frozen=True)
class Problem:
    """What there is to control.

    Attributes:
        name: of the problem, and the beginning of its agents' names.
        scales: a typical size of each element of an observation.
        outputs: how many numbers an agent answers.
        is_discrete: whether they are scores of actions, of which the largest is done; else they
            are the action itself.
        bound: largest action by magnitude, for continuous ones.
        steps: of one episode at most.
        spread: start states are uniform between minus and plus this, [state].
        observe: states [n, state] to observations [n, observed].
        step: states [n, state] and answers [n, outputs] to the next states, rewards [n] and
            whether the episode is over [n].
    """

    name: str
    scales: tuple[float, ...]
    outputs: int
    is_discrete: bool
    bound: float
    steps: int
    spread: tuple[float, ...]
    observe: Callable[[States], Observations]
    step: Callable[[States, States], tuple[States, States, npt.NDArray[np.bool_]]]


def starts(problem: Problem, count: int, random: np.random.Generator) -> States:
    """Draw start states [count, state]."""
    spread = np.array(problem.spread)
    return random.uniform(-spread, spread, (count, len(spread)))


def hanging() -> States:
    """The pendulum hanging at rest, [1, 2]: the one way up is as good as the other."""
    return np.array([[np.pi, 0.0]])


def returns(problem: Problem, policy: Policy, begin: States) -> States:
    """Play an episode from each start state, all at once.

    Args:
        problem: what to play.
        policy: who plays; it is asked once per step, about all episodes.
        begin: start states, [n, state].

    Returns:
        The sum of each episode's rewards, [n].
    """
    state, total, alive = begin, np.zeros(len(begin)), np.ones(len(begin), np.bool_)
    for _ in range(problem.steps):
        answer = np.asarray(policy(problem.observe(state)), np.float64)
        after, reward, over = problem.step(state, answer)
        total += reward * alive
        state = np.where(alive[:, np.newaxis], after, state)
        alive &= ~over
        if not alive.any():
            break
    return total


def _observe_cart(states: States) -> Observations:
    return states.astype(np.float32)


def _step_cart(states: States, answers: States) -> tuple[States, States, npt.NDArray[np.bool_]]:
    """Position (m), speed (m/s), tilt (rad), its rate (rad/s); push left (0) or right (1)."""
    position, speed, tilt, rate = states.T
    force = np.where(answers.argmax(axis=1) == 1, _FORCE_N, -_FORCE_N)
    mass = _CART_KG + _POLE_KG
    sine, cosine = np.sin(tilt), np.cos(tilt)
    swing = (force + _POLE_KG * _HALF_POLE_M * rate**2 * sine) / mass
    inertia = _HALF_POLE_M * (4 / 3 - _POLE_KG * cosine**2 / mass)
    turning = (_GRAVITY * sine - cosine * swing) / inertia
    driving = swing - _POLE_KG * _HALF_POLE_M * turning * cosine / mass
    after = states + _CART_STEP_S * np.stack([speed, driving, rate, turning], axis=1)
    over = (np.abs(after[:, 0]) > _TRACK_M) | (np.abs(after[:, 2]) > _TILT_RAD)
    return after, (~over).astype(np.float64), over


def _observe_rod(states: States) -> Observations:
    angle, rate = states.T
    return np.stack([np.cos(angle), np.sin(angle), rate], axis=1).astype(np.float32)


def _step_rod(states: States, answers: States) -> tuple[States, States, npt.NDArray[np.bool_]]:
    """Angle (rad, 0 is up) and its rate (rad/s); the action is a torque (N m)."""
    angle, rate = states.T
    torque = np.clip(answers[:, 0], -_TORQUE_NM, _TORQUE_NM)
    off = (angle + np.pi) % (2 * np.pi) - np.pi
    cost = off**2 + 0.1 * rate**2 + 0.001 * torque**2
    turning = 1.5 * _GRAVITY * np.sin(angle) + 3 * torque
    rate = np.clip(rate + _ROD_STEP_S * turning, -_ROD_SPEED, _ROD_SPEED)
    after = np.stack([angle + _ROD_STEP_S * rate, rate], axis=1)
    return after, -cost, np.zeros(len(states), np.bool_)


#: Keep a pole upright on a cart, and the cart on its track, for up to 500 steps of 20 ms. Starts
#: are wider than usual: from some of them nobody could.
CART_POLE = Problem(
    name="cartpole",
    scales=(2.4, 2.0, 0.2, 2.0),
    outputs=2,
    is_discrete=True,
    bound=0.0,
    steps=500,
    spread=(1.5, 1.0, 0.15, 1.0),
    observe=_observe_cart,
    step=_step_cart,
)

#: Swing a pendulum up and hold it there, for 200 steps of 50 ms; the return is minus the cost.
PENDULUM = Problem(
    name="pendulum",
    scales=(1.0, 1.0, 8.0),
    outputs=1,
    is_discrete=False,
    bound=_TORQUE_NM,
    steps=200,
    spread=(np.pi, 1.0),
    observe=_observe_rod,
    step=_step_rod,
)

#: By their names.
PROBLEMS = {problem.name: problem for problem in (CART_POLE, PENDULUM)}
