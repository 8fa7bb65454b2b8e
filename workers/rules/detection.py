"""Rules for detectors: boxes of several members, which are about the same objects, become one each.

Run in the combiner; pure. Boxes, scores and classes of the members that an answer rests on flow in,
padded to a fixed number per row; the answer is padded in the same way. A box is
``(x1, y1, x2, y2)``, two opposite corners, in any unit; there is none where the score is not above
0 or the class is negative, and padding has a score of 0 and the class -1. Boxes of different
classes never meet.

Sources: Solovyev, Wang and Gabruseva, "Weighted boxes fusion: Ensembling boxes from different
object detection models" (Image and Vision Computing 107, 2021), for `fuse`; Bodla, Singh, Chellappa
and Davis, "Soft-NMS: Improving Object Detection With One Line of Code" (ICCV 2017), for
`suppress_softly`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

__all__ = [
    "Candidates",
    "DetectionOptions",
    "FusedScore",
    "find_candidates",
    "fuse",
    "nms",
    "soft_nms",
    "suppress",
    "suppress_softly",
    "weighted_boxes",
]

Array = npt.NDArray[Any]

#: How the score of a fused box follows from those of its boxes.
FusedScore = Literal["average", "maximum", "box_and_model_average", "absent_model_aware_average"]


class DetectionOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What a rule for boxes may be told.

    Attributes:
        iou: two boxes are of one object if their intersection over union is above this.
        skip: boxes with a lower score are left out from the beginning.
        score: of a fused box.
        decay: how `suppress_softly` lowers the scores of boxes that overlap a better one.
        sigma: of the gaussian decay.
        keep: boxes whose lowered score is not above this are left out at the end.
        coordinates: in any unit, or parts of the image, which are cut to 0 ... 1.
        most: boxes of an answer; 0 for as many as the member with most boxes can give.
    """

    iou: float = 0.55
    skip: float = 0.0
    score: FusedScore = "average"
    decay: Literal["gaussian", "linear"] = "gaussian"
    sigma: float = 0.5
    keep: float = 0.001
    coordinates: Literal["pixels", "normalized"] = "pixels"
    most: int = 0


class Candidates(NamedTuple):
    """The boxes of one row, best first.

    Attributes:
        boxes: [k, 4], float64, with the smaller coordinates first.
        scores: [k], float64, times the weight of the member for `fuse`.
        classes: [k], int64.
        members: [k], the position of each box's member.
    """

    boxes: Array
    scores: Array
    classes: Array
    members: Array

    def chosen(self, indices: Array) -> Candidates:
        """Return some of the boxes."""
        return Candidates(*(one[indices] for one in self))


def weighted_boxes(
    inputs: Sequence[Array], weights: Array, answers: Sequence[Array], **options: Any
) -> None:
    """Combine boxes by `fuse`; see `_combine`."""
    _combine(fuse, inputs, weights, answers, DetectionOptions(**options))


def nms(inputs: Sequence[Array], weights: Array, answers: Sequence[Array], **options: Any) -> None:
    """Combine boxes by `suppress`; see `_combine`."""
    _combine(suppress, inputs, weights, answers, DetectionOptions(**options))


def soft_nms(
    inputs: Sequence[Array], weights: Array, answers: Sequence[Array], **options: Any
) -> None:
    """Combine boxes by `suppress_softly`; see `_combine`."""
    _combine(suppress_softly, inputs, weights, answers, DetectionOptions(**options))


def _combine(
    rule: Callable[[Candidates, Array, DetectionOptions], Candidates],
    inputs: Sequence[Array],
    weights: Array,
    answers: Sequence[Array],
    options: DetectionOptions,
) -> None:
    """Combine the boxes of many rows, each by itself.

    Args:
        rule: `fuse`, `suppress` or `suppress_softly`.
        inputs: boxes [members, rows, n, 4], scores and classes [members, rows, n].
        weights: [members], above 0.
        answers: boxes [rows, most, 4], scores and classes [rows, most], their number [rows];
            the best ones, if there are more.
        options: for the rule.
    """
    boxes, scores, classes, counts = answers
    boxes[...], scores[...], classes[...] = 0, 0, -1
    for row in range(len(counts)):
        found = rule(find_candidates([one[:, row] for one in inputs], options), weights, options)
        count = counts[row] = min(len(found.scores), scores.shape[1])
        boxes[row, :count] = found.boxes[:count]
        scores[row, :count] = found.scores[:count]
        classes[row, :count] = found.classes[:count]


def find_candidates(inputs: Sequence[Array], options: DetectionOptions) -> Candidates:
    """Return the boxes of one row: [members, n, 4], with scores and classes [members, n]."""
    boxes, scores, classes = inputs
    corners = boxes.reshape(-1, 4).astype(np.float64)
    if options.coordinates == "normalized":
        corners = corners.clip(0, 1)
    low, high = (
        np.minimum(corners[:, :2], corners[:, 2:]),
        np.maximum(corners[:, :2], corners[:, 2:]),
    )
    found = Candidates(
        np.concatenate((low, high), axis=1),
        scores.ravel().astype(np.float64),
        classes.ravel().astype(np.int64),
        np.repeat(np.arange(len(scores)), scores.shape[1]),
    )
    has_area = ((high > low) & np.isfinite(high - low)).all(axis=1)
    is_there = (found.scores > 0) & (found.scores >= options.skip) & (found.classes >= 0)
    return _best_first(found.chosen(np.flatnonzero(has_area & is_there)))


def fuse(found: Candidates, weights: Array, options: DetectionOptions) -> Candidates:
    """Weighted boxes fusion: the average of the boxes of an object, weighted by their scores.

    From the best box down, each joins the fused box with which its intersection over union is the
    largest and above the limit, or begins a new one. The score is the average of the boxes'
    (`average`, or another `FusedScore`), lowered in proportion to the members that did not find
    the object.
    """
    weighted = _best_first(found._replace(scores=found.scores * weights[found.members]))
    return _joined(weighted, (_fuse_class(one, weights, options) for one in _by_class(weighted)))


def suppress(found: Candidates, weights: Array, options: DetectionOptions) -> Candidates:
    """Non-maximum suppression: boxes that overlap a better one of their class are left out.

    Scores are multiplied by the weight of their member, relative to the largest weight.
    """
    weighted = _weighed(found, weights)
    return _joined(weighted, (_suppress_class(one, options.iou) for one in _by_class(weighted)))


def suppress_softly(found: Candidates, weights: Array, options: DetectionOptions) -> Candidates:
    """Soft non-maximum suppression: boxes that overlap a better one get a lower score.

    With the intersection over union o that is ``score * exp(-o * o / sigma)``, or with linear decay
    ``score * (1 - o)`` where o is above the limit. Weights are those of `suppress`.
    """
    weighted = _weighed(found, weights)
    return _joined(weighted, (_decay_class(one, options) for one in _by_class(weighted)))


def _weighed(found: Candidates, weights: Array) -> Candidates:
    shares = weights / weights.max()
    return _best_first(found._replace(scores=found.scores * shares[found.members]))


def _best_first(found: Candidates) -> Candidates:
    return found.chosen(np.argsort(-found.scores, kind="stable"))


def _by_class(found: Candidates) -> Iterator[Candidates]:
    for number in np.unique(found.classes):
        yield found.chosen(np.flatnonzero(found.classes == number))


def _joined(found: Candidates, parts: Iterator[Candidates]) -> Candidates:
    """The results for all classes of what was found, best first."""
    results = [*parts]
    if not results:
        return found
    return _best_first(Candidates(*map(np.concatenate, zip(*results, strict=True))))


def _areas(boxes: Array) -> Array:
    areas: Array = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    return areas


def _overlaps(boxes: Array, areas: Array, box: Array, area: Array) -> Array:
    """The intersection over union of boxes [4, k] with one box, or with boxes [4, n, 1]."""
    width = np.minimum(boxes[2], box[2]) - np.maximum(boxes[0], box[0])
    height = np.minimum(boxes[3], box[3]) - np.maximum(boxes[1], box[1])
    both = np.maximum(width, 0) * np.maximum(height, 0)
    shared: Array = both / (areas + area - both)
    return shared


def _suppress_class(found: Candidates, limit: float) -> Candidates:
    sides, areas = found.boxes.T, _areas(found.boxes)
    left, kept = np.arange(len(areas)), []
    while len(left):
        best, left = left[0], left[1:]
        kept.append(best)
        near = _overlaps(sides[:, left], areas[left], sides[:, best], areas[best])
        left = left[near <= limit]
    return found.chosen(np.array(kept))


def _decay_class(found: Candidates, options: DetectionOptions) -> Candidates:
    sides, areas = found.boxes.T, _areas(found.boxes)
    overlaps = _overlaps(sides, areas, sides[:, :, np.newaxis], areas[:, np.newaxis])
    if options.decay == "gaussian":
        factors = np.exp(-(overlaps**2) / options.sigma)
    else:
        factors = np.where(overlaps > options.iou, 1 - overlaps, 1.0)
    scores = np.zeros(len(found.scores))
    left = found.scores.copy()
    # Boxes at or below the limit never rise again, and lower only others there.
    while left[best := int(left.argmax())] > options.keep:
        scores[best], left[best] = left[best], 0
        left *= factors[best]
    return found._replace(scores=scores).chosen(np.flatnonzero(scores))


def _fuse_class(found: Candidates, weights: Array, options: DetectionOptions) -> Candidates:
    size = len(found.scores)
    fused, areas, sums = np.empty((4, size)), np.empty(size), np.zeros(size)
    clusters = np.empty(size, np.int64)
    own_areas = _areas(found.boxes)
    count = 0
    for i, score in enumerate(found.scores.tolist()):
        box = found.boxes[i]
        at, overlap = 0, 0.0
        if count:
            overlaps = _overlaps(fused[:, :count], areas[:count], box, own_areas[i])
            at = int(overlaps.argmax())
            overlap = overlaps[at]
        if count and overlap > options.iou:
            fused[:, at] += (box - fused[:, at]) * (score / (sums[at] + score))
        else:
            at, count = count, count + 1
            fused[:, at] = box
        areas[at] = (fused[2, at] - fused[0, at]) * (fused[3, at] - fused[1, at])
        sums[at] += score
        clusters[i] = at
    scores = _fused_scores(found, clusters, count, weights, options.score)
    nobody = np.full(count, -1, found.members.dtype)
    return Candidates(fused[:, :count].T, scores, found.classes[:count], nobody)


def _fused_scores(
    found: Candidates, clusters: Array, count: int, weights: Array, score: FusedScore
) -> Array:
    """The scores of fused boxes, from those of the boxes in each cluster."""
    sums = np.bincount(clusters, found.scores, count)
    sizes = np.bincount(clusters, minlength=count)
    shares = np.bincount(clusters, weights[found.members], count)
    has_found = np.zeros((count, len(weights)), np.bool_)
    has_found[clusters, found.members] = True
    scores: Array
    match score:
        case "average":
            scores = sums / sizes * np.minimum(sizes, len(weights)) / weights.sum()
        case "maximum":
            scores = np.zeros(count)
            np.maximum.at(scores, clusters, found.scores)
            scores /= weights.max()
        case "box_and_model_average":
            scores = sums / shares * (has_found @ weights) / weights.sum()
        case "absent_model_aware_average":
            scores = sums / (shares + ~has_found @ weights)
    return scores
