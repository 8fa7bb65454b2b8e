"""Outputs that are computed on request, and how they are asked for."""

import numpy as np
import pytest
from arenas import ensemble
from scipy import stats

from server.engine.request import Answer, Extras
from server.engine.spec import ServedModel
from server.errors import InvalidRequest
from server.inference.conformal import ConformalSpec
from server.inference.outputs import extra_outputs, infer_options, output_tensors
from server.inference.requests import (
    RequestedOutput,
    RequestParameters,
    read_output,
    share_parameters,
)
from server.inference.spec import ModelSpec, PredictiveSpec
from workers.runtime.spec import TensorSpec

NOTHING = RequestParameters()
ROWS, MEMBERS = 5, (4, 2, 0)
LEVELS = (0.1, 0.5, 0.9)
#: Of 19 rows: at most a coverage of 0.95.
RANKS = tuple(range(1, 20))
WEIGHTS = (1.0, 2.0, 0.5)


def scores(*factors):
    return tuple(tuple(factor * rank for rank in RANKS) for factor in factors)


def model(
    kind,
    shape=(),
    *,
    rule="mixture",
    datatype="FP32",
    method=None,
    coverage=0.9,
    elements=1,
    levels=LEVELS,
):
    predicted = {"normal": (*shape, 2), "quantiles": (*shape, 3)}.get(kind, shape)
    output = predicted if rule != "mixture" else shape
    spec = ensemble(
        "all",
        MEMBERS,
        rule=rule,
        weights=WEIGHTS,
        quorum=1,
        output=TensorSpec("output", datatype, output),
        prediction=TensorSpec("output", datatype, predicted),
    )
    conformal = method and ConformalSpec(method, 19, RANKS, scores(*range(1, elements + 1)))
    predictive = PredictiveSpec(kind, levels if kind == "quantiles" else (), coverage, conformal)
    names = ("four", "two", "zero")
    return ModelSpec(ServedModel(0, 0, spec), (), names, predictive=predictive)


def answered(model, outputs, predictions, combined):
    """The tensors of these outputs; predictions [members, rows, ...] are NaN where absent."""
    options = infer_options(model, NOTHING, outputs)
    spec, extras = model.served.spec, None
    if options.has_extras:
        extras = Extras(spec, options, ROWS)
        for i, member in enumerate(spec.members):
            present = ~np.isnan(predictions[i]).reshape(ROWS, -1).any(axis=1)
            extras.used[present] |= np.uint64(1 << member)
            if member in extras.predictions:
                extras.predictions[member][:] = predictions[i]
    values = np.asarray(combined, spec.output.dtype).tobytes()
    answer = Answer(values, ROWS, 0b10101, False, extras)
    dtypes = {"FP32": np.float32, "FP64": np.float64, "BOOL": np.bool_}
    return {
        tensor.name: np.frombuffer(tensor.data, dtypes[tensor.datatype]).reshape(tensor.shape)
        for tensor in output_tensors(model, answer, outputs)
    }


def normal_members(shape=()):
    random = np.random.default_rng(0)
    means = random.normal(5, 3, (len(MEMBERS), ROWS, *shape))
    variances = random.gamma(2, 1, means.shape)
    return np.stack([means, variances], axis=-1).astype(np.float32)


def names_of(model):
    return [tensor.name for tensor in extra_outputs(model) if not tensor.name.startswith("output.")]


@pytest.mark.parametrize(
    ("described", "names"),
    [
        (model("normal"), ["aleatoric", "epistemic", "variance", "interval", "quantiles"]),
        (model("quantiles", rule="mean"), ["interval", "quantiles"]),
        (model("values"), ["epistemic"]),
        (model("values", method="absolute"), ["epistemic", "interval"]),
        (model("quantiles", rule="mean", levels=(0.5, 0.6, 0.9)), ["quantiles"]),
        (model("values", rule="median", method="absolute"), ["interval"]),
        (model("classes", (3,), rule="mean", method="lac"), ["prediction_set"]),
    ],
)
def test_the_outputs_follow_from_what_the_members_give(described, names):
    assert names_of(described) == [*names, "member_mask"]


def test_outputs_have_the_shape_of_the_prediction():
    shapes = {tensor.name: tensor.shape for tensor in extra_outputs(model("normal", (2,)))}
    assert shapes["variance"] == (2,)
    assert shapes["interval"] == (2, 2)
    assert shapes["quantiles"] == (2, -1)
    assert shapes["output.two"] == (2, 2)
    quantiles = model("quantiles", (4,), rule="mean")
    assert dict((t.name, t.shape) for t in extra_outputs(quantiles))["interval"] == (4, 2)


@pytest.mark.parametrize("shape", [(), (3,)])
def test_the_parts_of_the_variance_are_exact(shape):
    predictions = normal_members(shape)
    outputs = tuple(map(RequestedOutput, ("aleatoric", "epistemic", "variance")))
    found = answered(model("normal", shape), outputs, predictions, np.zeros((ROWS, *shape)))
    shares = np.array(WEIGHTS) / sum(WEIGHTS)
    means, variances = np.moveaxis(predictions.astype(np.float64), -1, 0)
    mean = np.tensordot(shares, means, 1)
    epistemic = np.tensordot(shares, (means - mean) ** 2, 1)
    aleatoric = np.tensordot(shares, variances, 1)
    np.testing.assert_allclose(found["aleatoric"], aleatoric, rtol=1e-6)
    np.testing.assert_allclose(found["epistemic"], epistemic, rtol=1e-6)
    np.testing.assert_allclose(found["variance"], aleatoric + epistemic, rtol=1e-6)


def test_rows_rest_on_the_members_that_contributed_to_them():
    predictions = normal_members()
    predictions[0, 1] = predictions[2, 1] = predictions[1, 3] = np.nan
    outputs = (RequestedOutput("variance"), RequestedOutput("interval", coverage=0.5))
    found = answered(model("normal"), outputs, predictions, np.zeros(ROWS))
    assert found["variance"][1] == predictions[1, 1, 1]
    mean, variance = predictions[1, 1]
    expected = stats.norm.interval(0.5, mean, np.sqrt(variance))
    np.testing.assert_allclose(found["interval"][1], expected, rtol=1e-5)
    shares = np.array([1, 0.5]) / 1.5
    means, variances = predictions[[0, 2], 3].T.astype(np.float64)
    centre = shares @ means
    total = shares @ (variances + (means - centre) ** 2)
    assert found["variance"][3] == pytest.approx(total, rel=1e-5)


def test_quantiles_and_intervals_are_those_of_the_mixture():
    predictions = normal_members((2,))
    outputs = (
        RequestedOutput("quantiles", levels=(0.05, 0.5, 0.95)),
        RequestedOutput("interval"),
    )
    found = answered(model("normal", (2,)), outputs, predictions, np.zeros((ROWS, 2)))
    assert found["quantiles"].shape == (ROWS, 2, 3)
    np.testing.assert_array_equal(found["interval"], found["quantiles"][..., [0, 2]])
    shares = np.array(WEIGHTS) / sum(WEIGHTS)
    deviations = np.sqrt(predictions[..., 1:])
    below = stats.norm.cdf(found["quantiles"], predictions[..., :1], deviations)
    levels = np.tensordot(shares, below, 1)
    np.testing.assert_allclose(levels, np.broadcast_to([0.05, 0.5, 0.95], levels.shape), atol=1e-6)


def test_quantiles_between_the_members_own_are_interpolated():
    combined = np.sort(np.random.default_rng(0).normal(0, 1, (ROWS, 3)).astype(np.float32))
    outputs = (RequestedOutput("quantiles"), RequestedOutput("interval", coverage=0.4))
    found = answered(model("quantiles", rule="mean"), outputs, None, combined)
    np.testing.assert_array_equal(found["quantiles"], combined)
    middle = (combined[:, :2] + combined[:, 1:]) / 2
    np.testing.assert_allclose(found["interval"], middle, rtol=1e-6)


def test_the_epistemic_part_of_plain_values():
    values = np.random.default_rng(0).normal(0, 1, (3, ROWS)).astype(np.float32)
    found = answered(model("values"), (RequestedOutput("epistemic"),), values, np.zeros(ROWS))
    centre = np.average(values, axis=0, weights=WEIGHTS)
    expected = np.average((values - centre) ** 2, axis=0, weights=WEIGHTS)
    np.testing.assert_allclose(found["epistemic"], expected, rtol=1e-5)


def test_conformal_intervals():
    combined = np.arange(ROWS, dtype=np.float32)
    wanted = (RequestedOutput("interval", coverage=0.5),)
    absolute = answered(model("values", method="absolute"), wanted, None, combined)["interval"]
    np.testing.assert_array_equal(absolute, combined[:, None] + [-10, 10])

    predictions = normal_members()
    normal = model("normal", method="normalised")
    outputs = (*wanted, RequestedOutput("variance"))
    found = answered(normal, outputs, predictions, combined)
    deviation = np.sqrt(found["variance"])[:, None]
    expected = combined[:, None] + [-10, 10] * deviation
    np.testing.assert_allclose(found["interval"], expected, rtol=1e-6)

    quantiles = np.sort(np.random.default_rng(0).normal(0, 1, (ROWS, 2, 3)), axis=-1)
    cqr = model("quantiles", (2,), rule="mean", method="cqr", elements=2)
    found = answered(cqr, wanted, None, quantiles)["interval"]
    moved = quantiles[..., [0, 2]] + np.array([[-10, 10], [-20, 20]])
    np.testing.assert_allclose(found, moved, rtol=1e-6)


def test_a_prediction_set_has_the_classes_within_the_threshold():
    spec = model("classes", (3,), rule="mean", method="lac")
    conformal = ConformalSpec("lac", 19, RANKS, (tuple(rank / 20 for rank in RANKS),))
    spec = ModelSpec(
        spec.served,
        (),
        spec.members,
        predictive=PredictiveSpec("classes", conformal=conformal),
    )
    p = np.array([[0.9, 0.1, 0], [0.5, 0.3, 0.2], [1, 0, 0], [0.4, 0.4, 0.2], [0.1, 0.1, 0.8]])
    found = answered(spec, (RequestedOutput("prediction_set", coverage=0.7),), None, p)
    np.testing.assert_array_equal(found["prediction_set"], p >= 0.3 - 1e-6)


@pytest.mark.parametrize(
    ("asked", "output", "complaint"),
    [
        (
            model("quantiles", rule="mean"),
            RequestedOutput("interval", coverage=0.95),
            "coverage of 0.95 is outside the quantiles that the members predict, 0.1 to 0.9",
        ),
        (
            model("quantiles", rule="mean"),
            RequestedOutput("quantiles", levels=(0.05, 0.5)),
            "parameter quantiles is outside",
        ),
        (model("normal"), RequestedOutput("quantiles"), "which ones"),
        (model("normal"), RequestedOutput("interval", coverage=1 - 1e-15), "too near 1"),
        (
            model("values", method="absolute"),
            RequestedOutput("interval", coverage=0.96),
            "a coverage of 0.96 needs 24 calibration rows, there were 19",
        ),
        (model("values"), RequestedOutput("interval"), "has no output 'interval'"),
        (model("normal"), RequestedOutput("prediction_set"), "has no output 'prediction_set'"),
        (
            model("classes", (3,), rule="mean", method="lac"),
            RequestedOutput("interval"),
            "has no output 'interval'",
        ),
    ],
)
def test_what_cannot_be_computed_is_refused(asked, output, complaint):
    with pytest.raises(InvalidRequest, match=complaint):
        infer_options(asked, NOTHING, (output,))


def test_what_was_calibrated_for_all_members_is_refused_for_some():
    some, every = (
        RequestParameters(members=("two",)),
        RequestParameters(members=("two", "four", "zero")),
    )
    calibrated, outputs = model("normal", method="normalised"), (RequestedOutput("interval"),)
    with pytest.raises(InvalidRequest, match="calibrated for all members of 'all'"):
        infer_options(calibrated, some, outputs)
    infer_options(calibrated, every, outputs)
    infer_options(model("normal"), some, outputs)


def test_members_predictions_are_fetched_only_where_they_are_needed():
    def fetched(model, *names):
        return infer_options(model, NOTHING, tuple(map(RequestedOutput, names))).predictions

    assert fetched(model("normal"), "output") == ()
    assert fetched(model("normal"), "interval") == MEMBERS
    assert fetched(model("values"), "epistemic") == MEMBERS
    assert fetched(model("values", method="absolute"), "interval") == ()
    quantiles = model("quantiles", rule="mean", coverage=0.8)
    assert fetched(quantiles, "interval", "quantiles") == ()
    assert fetched(model("classes", (3,), rule="mean", method="aps"), "prediction_set") == ()


def test_parameters_of_an_output():
    assert read_output("interval", {"coverage": 0.8}, binary=True).coverage == 0.8
    for levels in ("0.1, 0.9", [0.1, 0.9]):
        assert read_output("quantiles", {"quantiles": levels}, binary=True).levels == (0.1, 0.9)


def test_parameters_of_the_request_are_for_the_outputs_that_have_none_of_their_own():
    outputs = (
        RequestedOutput("output"),
        RequestedOutput("interval", coverage=0.5),
        RequestedOutput("prediction_set"),
        RequestedOutput("quantiles"),
    )
    shared = share_parameters(outputs, {"coverage": 0.8, "quantiles": "0.5", "members": "a"})
    assert [output.coverage for output in shared] == [0, 0.5, 0.8, 0]
    assert [output.levels for output in shared] == [(), (), (), (0.5,)]
    assert share_parameters(outputs, {"members": "a"}) is outputs


@pytest.mark.parametrize("coverage", [0, 1, -0.5, 1.5, True, "0.9", None, float("nan"), [0.9]])
def test_a_coverage_lies_between_0_and_1(coverage):
    with pytest.raises(InvalidRequest, match="coverage is a number above 0 and below 1"):
        read_output("interval", {"coverage": coverage}, binary=False)
    with pytest.raises(InvalidRequest, match="the request: parameter coverage"):
        share_parameters((RequestedOutput("interval"),), {"coverage": coverage})


@pytest.mark.parametrize(
    "levels",
    [
        "",
        "a",
        "0.1,,0.9",
        "0,0.5",
        "0.5,1",
        "nan",
        [],
        [True],
        0.5,
        None,
        {"a": 1},
        ",".join(["0.5"] * 101),
    ],
)
def test_quantiles_are_numbers_between_0_and_1(levels):
    with pytest.raises(InvalidRequest, match="parameter quantiles is 1 to 100 numbers"):
        read_output("quantiles", {"quantiles": levels}, binary=False)


@pytest.mark.parametrize("levels", ["0.9,0.1", "0.5,0.5"])
def test_quantiles_ascend(levels):
    with pytest.raises(InvalidRequest, match="parameter quantiles ascends"):
        read_output("quantiles", {"quantiles": levels}, binary=False)


def test_parameters_without_an_output_that_they_are_for_are_refused():
    with pytest.raises(InvalidRequest, match="coverage is for interval and prediction_set"):
        read_output("output", {"coverage": 0.9}, binary=False)
    with pytest.raises(InvalidRequest, match="for the output interval or prediction_set, which is"):
        share_parameters((RequestedOutput(),), {"coverage": 0.9})
    with pytest.raises(InvalidRequest, match="for the output quantiles, which is not requested"):
        share_parameters((RequestedOutput("interval"),), {"quantiles": "0.5"})
