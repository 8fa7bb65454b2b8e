"""Rules for boxes: equal to the reference implementation of the paper's authors, and edge cases."""

import numpy as np
import pytest

from workers.rules.detection import (
    DetectionOptions,
    find_candidates,
    fuse,
    nms,
    soft_nms,
    suppress,
    suppress_softly,
    weighted_boxes,
)

SCORES = {
    "average": "avg",
    "maximum": "max",
    "box_and_model_average": "box_and_model_avg",
    "absent_model_aware_average": "absent_model_aware_avg",
}
WEIGHTS = [(1.0, 1.0, 1.0), (2.0, 1.0, 0.5)]


def detections(seed, members=3, objects=6, classes=2):
    """Noisy boxes of the same objects, as several detectors give them, and some of their own."""
    random = np.random.default_rng(seed)
    centers, sizes = random.uniform(0.2, 0.8, (objects, 2)), random.uniform(0.05, 0.2, (objects, 2))
    truth = np.concatenate([centers - sizes, centers + sizes], axis=1)
    kinds = random.integers(0, classes, objects)
    boxes, scores, labels = [], [], []
    for _ in range(members):
        again = np.concatenate([np.arange(objects), random.integers(0, objects, 4)])
        noise = random.normal(0, 0.015, (len(again), 4))
        boxes.append((truth[again] + noise).clip(0, 1).astype(np.float32))
        scores.append(random.uniform(0.05, 1, len(again)).astype(np.float32))
        labels.append(kinds[again])
    return boxes, scores, labels


def candidates(boxes, scores, classes, options):
    return find_candidates([np.stack(one) for one in (boxes, scores, classes)], options)


def assert_equal(found, boxes, scores, classes):
    assert len(found.scores) == len(scores)
    assert (np.diff(found.scores) <= 0).all()
    order = np.argsort(-scores, kind="stable")
    np.testing.assert_allclose(found.scores, scores[order], rtol=1e-5)
    np.testing.assert_allclose(found.boxes, boxes[order], atol=1e-6)
    np.testing.assert_array_equal(found.classes, classes[order])


@pytest.fixture(scope="module")
def reference():
    return pytest.importorskip("ensemble_boxes")


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("score", SCORES)
def test_fusion_is_that_of_its_authors(reference, score, weights):
    for seed in range(20):
        given = detections(seed)
        options = DetectionOptions(iou=0.5, skip=0.1, score=score, coordinates="normalized")
        expected = reference.weighted_boxes_fusion(
            *given,
            weights=weights,
            iou_thr=0.5,
            skip_box_thr=np.float32(0.1),
            conf_type=SCORES[score],
        )
        assert_equal(fuse(candidates(*given, options), np.array(weights), options), *expected)


@pytest.mark.parametrize("weights", WEIGHTS)
def test_suppression_is_the_usual_one(reference, weights):
    for seed in range(20):
        boxes, scores, labels = detections(seed)
        options = DetectionOptions(iou=0.4)
        shares = np.array(weights) / max(weights)
        scaled = [one * share for one, share in zip(scores, shares, strict=True)]
        expected = reference.nms(boxes, scaled, labels, iou_thr=0.4)
        found = candidates(boxes, scores, labels, options)
        assert_equal(suppress(found, np.array(weights), options), *expected)


@pytest.mark.parametrize(("decay", "method"), [("linear", 1), ("gaussian", 2)])
def test_soft_suppression_keeps_what_the_reference_keeps(reference, decay, method):
    from ensemble_boxes.ensemble_boxes_nms import cpu_soft_nms_float

    for seed in range(20):
        boxes, scores, labels = detections(seed, classes=1)
        options = DetectionOptions(iou=0.4, decay=decay, sigma=0.3, keep=0.2)
        found = candidates(boxes, scores, labels, options)
        lowered = np.concatenate(scores).astype(np.float64)  # is sorted as the kept ones are
        kept = cpu_soft_nms_float(np.concatenate(boxes), lowered, 0.4, 0.3, 0.2, method)
        assert_equal(
            suppress_softly(found, np.ones(3), options),
            np.concatenate(boxes)[kept],
            lowered[lowered > 0.2],
            np.concatenate(labels)[kept],
        )


def combine(rule, members, most, weights=None, **options):
    inputs = [np.stack(one) for one in zip(*members, strict=True)]
    rows = inputs[0].shape[1]
    out = (
        np.full((rows, most, 4), 7, np.float32),
        np.full((rows, most), 7, np.float32),
        np.full((rows, most), 7, np.int64),
        np.full(rows, 7, np.int64),
    )
    weights = np.ones(len(members)) if weights is None else np.array(weights)
    rule(inputs, weights, out, **options)
    return out


def member(*found, size=4):
    """One row of a member: (box, score, class) each, padded."""
    boxes, scores, classes = np.zeros((1, size, 4)), np.zeros((1, size)), np.full((1, size), -1)
    for i, (box, score, number) in enumerate(found):
        boxes[0, i], scores[0, i], classes[0, i] = box, score, number
    return boxes, scores, classes


BOX, NEAR, FAR = (10, 10, 50, 50), (12, 10, 52, 50), (200, 10, 240, 50)


def test_boxes_of_one_object_become_one():
    boxes, scores, classes, count = combine(
        weighted_boxes, [member((BOX, 0.9, 1)), member((NEAR, 0.6, 1), (FAR, 0.5, 2))], most=3
    )
    assert count.tolist() == [2]
    np.testing.assert_allclose(boxes[0, 0], (10.8, 10, 50.8, 50), rtol=1e-6)
    np.testing.assert_allclose(scores[0], (0.75, 0.25, 0), rtol=1e-6)
    assert classes.tolist() == [[1, 2, -1]]
    assert not boxes[0, 2].any()


@pytest.mark.parametrize("rule", [weighted_boxes, nms, soft_nms])
def test_rows_without_boxes_and_padding_of_either_kind(rule):
    nothing = member((BOX, 0.0, 1), (NEAR, 0.5, -1), ((5, 5, 5, 9), 0.5, 1))
    boxes, scores, classes, count = combine(rule, [nothing, member()], most=2)
    assert (count.tolist(), scores.tolist(), classes.tolist()) == ([0], [[0, 0]], [[-1, -1]])
    assert not boxes.any()


def test_more_boxes_than_the_answer_has_space_for():
    found = member((BOX, 0.5, 0), (FAR, 0.9, 0), (BOX, 0.7, 1))
    _, scores, classes, count = combine(nms, [found], most=2)
    np.testing.assert_allclose(scores, [[0.9, 0.7]], rtol=1e-6)
    assert (classes.tolist(), count.tolist()) == ([[0, 1]], [2])


def test_boxes_of_different_classes_and_of_exactly_the_limit_stay():
    one, two = (0, 0, 10, 10), (0, 5, 10, 15)  # a third of their union in common
    for rule in (weighted_boxes, nms):
        *_, count = combine(rule, [member((one, 0.9, 0)), member((two, 0.8, 0))], most=4, iou=1 / 3)
        assert count.tolist() == [2]
        *_, count = combine(rule, [member((one, 0.9, 0)), member((one, 0.8, 1))], most=4)
        assert count.tolist() == [2]


def test_corners_in_any_order_and_out_of_the_image():
    boxes, *_ = combine(
        weighted_boxes, [member(((0.5, 1.2, -0.1, 0.1), 1, 0))], most=1, coordinates="normalized"
    )
    np.testing.assert_allclose(boxes[0, 0], (0, 0.1, 0.5, 1), rtol=1e-6)


def test_a_member_with_more_weight_moves_the_box():
    pair = [member((BOX, 0.5, 0)), member((NEAR, 0.5, 0))]
    boxes, *_ = combine(weighted_boxes, pair, most=1, weights=(3, 1))
    np.testing.assert_allclose(boxes[0, 0], (10.5, 10, 50.5, 50), rtol=1e-6)
