"""How different the members of a library are, and what each adds.

Runs in the process of the command line; pure. Labelled rows flow in, a `Diversity` flows out.
Source of the disagreement: Skalak, "The Sources of Increased Accuracy for Two Proposed Boosting
Algorithms" (1996); of the correlation of errors: Tumer and Ghosh, "Error Correlation and Error
Reduction in Ensemble Classifiers" (Connection Science 8, 1996).
"""

from __future__ import annotations

import numpy as np

from server.calibration.metrics import Floats
from server.selection.labelled import LabelledRows
from server.selection.points import Diversity

__all__ = ["diversity"]


def diversity(searched: LabelledRows, judged: LabelledRows, *, most: int) -> Diversity:
    """Compare the members on the judged rows.

    For the gain, at most so many of them are mixed; the next one is the best on the searched rows.
    """
    disagreement, errors = (_of_classes if judged.of_classes else _of_numbers)(judged)
    return Diversity(
        members=judged.members,
        disagreement=_rows(disagreement),
        error_correlation=_rows(_correlation(errors)),
        gain=_gain(searched, judged, most),
    )


def _of_classes(rows: LabelledRows) -> tuple[Floats, Floats]:
    classes = rows.predictions.argmax(axis=-1)
    disagreement = np.stack([(classes != one).mean(axis=1) for one in classes])
    return disagreement, (classes != rows.y).astype(np.float64)


def _of_numbers(rows: LabelledRows) -> tuple[Floats, Floats]:
    flat = rows.predictions.reshape(len(rows.members), -1)
    distance = np.stack([np.sqrt(((flat - one) ** 2).mean(axis=1)) for one in flat])
    return distance, flat - rows.y.ravel()


def _correlation(errors: Floats) -> Floats:
    """Correlations of the rows of errors, NaN where one does not vary."""
    centred = errors - errors.mean(axis=1, keepdims=True)
    norms = np.sqrt((centred**2).sum(axis=1))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(centred @ centred.T / np.outer(norms, norms))


def _rows(table: Floats) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(map(float, row)) for row in table)


def _gain(searched: LabelledRows, judged: LabelledRows, most: int) -> tuple[tuple[str, float], ...]:
    chosen: list[int] = []
    total = np.zeros_like(searched.predictions[0])
    found = []
    while len(chosen) < min(most, len(searched.members)):
        gains = searched.gains_grown(total, len(chosen))
        gains[chosen] = -np.inf
        best = int(gains.argmax())
        chosen.append(best)
        total = total + searched.predictions[best]
        answers = judged.predictions[chosen].mean(axis=0)
        found.append((judged.members[best], judged.measure(answers, judged.y)))
    return tuple(found)
