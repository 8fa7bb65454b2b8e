"""Agents play against the running server: ``python examples/play_control.py [URL]``.

Start it with ``ensembled serve configs/control.yaml``. Many episodes are played at once: each step
is one request, with a row per episode, and the action is what the server combined. Runs in the
caller's process; observations go out over HTTP or gRPC, a table of returns goes to stdout.

Needs the package `ensembled-client`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from ensembled_client import EnsembleClient

sys.path.append(str(Path(__file__).resolve().parent / "models"))

from control_problems import PENDULUM, PROBLEMS, Policy, Problem, hanging, returns, starts

#: Start states as in docs/control.md.
_SEED = 1000

#: The pendulum comes up, 25 degrees before the top, at 4.5 rad/s: brake, or once more around?
_DIVIDED = np.array([[-0.44, 4.5]])


def policy(client: EnsembleClient, model: str) -> Policy:
    """Return the policy of an ensemble on the server, or of one of its members."""
    return lambda observations: client.predict(model, observations).values


def models_of(client: EnsembleClient, problem: Problem) -> list[str]:
    """Return the names of a problem's members, then those of its ensembles."""
    names = [state.name for state in client.models() if state.name.startswith(problem.name)]
    return sorted(names, key=lambda name: ("_" not in name, name))


def play(client: EnsembleClient, problem: Problem, episodes: int) -> None:
    """Let each agent and each ensemble play the same episodes, and print their mean returns."""
    begin = starts(problem, episodes, np.random.default_rng(_SEED))
    print(f"{problem.name}: mean return of {episodes} episodes")
    for name in models_of(client, problem):
        print(f"  {name:20} {returns(problem, policy(client, name), begin).mean():8.1f}")


def show_medoid(client: EnsembleClient) -> None:
    """Show where the agents want opposite things, and what mean and medoid make of it."""
    mean = client.predict("pendulum", PENDULUM.observe(_DIVIDED), member_outputs=True)
    medoid = client.predict("pendulum-medoid", PENDULUM.observe(_DIVIDED))
    torques = ", ".join(f"{values.item():.2f}" for values in mean.member_values.values())
    print("the pendulum comes up fast; brake, or once more around?")
    print(f"  torques (N m) of the agents {torques}")
    print(f"  their mean {mean.values.item():.2f}, their medoid {medoid.values.item():.2f}")

    angles, rates = np.meshgrid(np.linspace(-np.pi, np.pi, 73), np.linspace(-8, 8, 33))
    states = np.stack([angles.ravel(), rates.ravel()], axis=1)
    prediction = client.predict("pendulum", PENDULUM.observe(states), member_outputs=True)
    proposed = np.stack(list(prediction.member_values.values()))
    distance = np.abs(proposed - prediction.values).min(axis=0)[:, 0]
    far = (distance > 0.5).mean()
    print(f"in {far:.0%} of {len(states)} states the mean is more than 0.5 N m from")
    print("what any agent proposes; mean returns from the 100 states where it is furthest, and the")
    print("return from hanging at rest:")
    divided = states[np.argsort(-distance, kind="stable")[:100]]
    for name in models_of(client, PENDULUM):
        found = returns(PENDULUM, policy(client, name), np.concatenate([divided, hanging()]))
        print(f"  {name:20} {found[:-1].mean():8.1f} {found[-1]:8.1f}")


def main() -> None:
    """Play all problems."""
    parser = argparse.ArgumentParser(description="Play against a server of configs/control.yaml.")
    parser.add_argument("url", nargs="?", default="http://127.0.0.1:8000")
    parser.add_argument("--episodes", type=int, default=100)
    options = parser.parse_args()
    with EnsembleClient(options.url) as client:
        for problem in PROBLEMS.values():
            play(client, problem, options.episodes)
        show_medoid(client)


if __name__ == "__main__":
    main()
