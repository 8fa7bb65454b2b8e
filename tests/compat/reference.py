"""What the ensemble must answer, computed with NumPy; imported by the tests.

The truth is what the networks say when onnxruntime runs them without a server, see
`make_reference.py`.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from digits_server import START_S, project_environment, project_program

__all__ = ["MEMBERS", "Digits", "agree", "load", "of_text"]

#: In the order of configs/digits.yaml.
MEMBERS = ("mlp", "deep", "cnn", "residual", "attention")


@dataclass(frozen=True)
class Digits:
    """Digits that no member has seen.

    Attributes:
        x: their pixels, FP32 [n, 64].
        y: what they are, [n].
        probabilities: by member, FP32 [n, 10].
    """

    x: np.ndarray
    y: np.ndarray
    probabilities: dict[str, np.ndarray]

    def mean(self, rows: slice, members: Sequence[str] = MEMBERS) -> np.ndarray:
        """The mean of some members' probabilities, [rows, 10]."""
        return np.mean([self.probabilities[name][rows] for name in members], 0)

    def scores(self, rows: slice) -> dict[str, np.ndarray]:
        """How much all members agree, by output name, each [rows]."""
        each = np.stack([self.probabilities[name][rows] for name in MEMBERS]).astype(float)
        mean = each.mean(0)
        best = each.argmax(2)
        votes = (best[:, :, None] == np.arange(10)).sum(0)
        pairs = [a != b for i, a in enumerate(best) for b in best[:i]]
        entropy, expected = _entropy(mean), _entropy(each).mean(0)
        return {
            "entropy": entropy,
            "expected_entropy": expected,
            "mutual_information": entropy - expected,
            "variance": each.var(0).mean(1),
            "vote_share": votes.max(1) / len(MEMBERS),
            "disagreement": np.mean(pairs, 0),
        }


def agree(answer: np.ndarray | None, expected: np.ndarray) -> None:
    """Assert that an answer has the right shape, and the values up to rounding."""
    assert answer is not None
    assert answer.shape == expected.shape
    np.testing.assert_allclose(answer, expected, rtol=1e-4, atol=1e-5)


def of_text(elements: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scores and indices of `score:index` elements [n, k], as float [n, k] and int [n, k]."""
    parts = [str(e, "utf-8") if isinstance(e, bytes) else e for e in elements.ravel()]
    scores, indices = zip(*(part.split(":")[:2] for part in parts), strict=True)
    shape = elements.shape
    return np.array(scores, float).reshape(shape), np.array(indices, int).reshape(shape)


def load(directory: Path) -> Digits:
    """Have the reference made, and read it."""
    path = directory / "digits.npz"
    script = Path(__file__).with_name("make_reference.py")
    subprocess.run(
        [project_program("python"), str(script), str(path)],
        env=project_environment(),
        check=True,
        timeout=START_S,
    )
    with np.load(path) as file:
        probabilities = {name: _softmax(file[name]) for name in MEMBERS}
        return Digits(file["x"], file["y"], probabilities)


def _softmax(logits: np.ndarray) -> np.ndarray:
    odds = np.exp(logits - logits.max(1, keepdims=True))
    return odds / odds.sum(1, keepdims=True)


def _entropy(p: np.ndarray) -> np.ndarray:
    """Of the last axis, in nats."""
    return -(p * np.log(np.maximum(p, 1e-30))).sum(-1)
