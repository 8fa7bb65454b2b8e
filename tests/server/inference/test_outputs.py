import numpy as np
import pytest
from arenas import ensemble
from ensembled_client.wire import CLASS_SCORES, split_elements

from server.engine.request import Answer, Extras, InferOptions
from server.engine.spec import ServedModel
from server.errors import InvalidRequest
from server.inference.outputs import extra_outputs, infer_options, output_tensors
from server.inference.requests import RequestedOutput, RequestParameters
from server.inference.spec import ModelSpec
from workers.runtime.spec import VALUE_SCORES, TensorSpec

CLASSES = TensorSpec("output", "FP32", (3,))
NOTHING = RequestParameters()
VALUES = np.array([[0.125, 0.5, 0.375], [1, 0, 0]], np.float32)


def model(*, output=CLASSES, scores=CLASS_SCORES, labels=(), is_member=False):
    spec = ensemble("both", (4, 2), quorum=1, output=output, scores=scores)
    served = ServedModel(0, 0, spec)
    return ModelSpec(served, (), ("four", "two"), labels, is_member)


def wanted(*names, **options):
    return tuple(RequestedOutput(name, **options) for name in names)


def test_extra_outputs_of_a_model():
    described = {tensor.name: (tensor.datatype, tensor.shape) for tensor in extra_outputs(model())}
    assert described == {
        "class": ("INT64", ()),
        **dict.fromkeys(CLASS_SCORES, ("FP32", ())),
        "member_mask": ("BOOL", (2,)),
        "output.four": ("FP32", (3,)),
        "output.two": ("FP32", (3,)),
    }
    assert extra_outputs(model(is_member=True)) == ()
    values = model(output=TensorSpec("output", "FP64", ()), scores=VALUE_SCORES)
    assert extra_outputs(values)[0] == TensorSpec("variance", "FP32", ())


def test_the_default_options_are_the_ensemble_as_it_is():
    assert infer_options(model(), NOTHING, wanted("output")) == InferOptions()
    assert not InferOptions().has_extras


def test_options_know_members_and_outputs_by_their_index():
    parameters = RequestParameters(0.5, ("two",), 1)
    outputs = wanted("output.two", "entropy", "output", "member_mask")
    options = infer_options(model(), parameters, outputs)
    assert options == InferOptions(0.5, 0b100, 1, scores=True, predictions=(2,), masks=True)
    assert options.has_extras


@pytest.mark.parametrize(
    ("outputs", "complaint"),
    [
        (wanted("other"), "no output 'other', it has output, class, entropy,"),
        (wanted("output", "output"), "twice"),
        (wanted("output.six"), "no output 'output.six'"),
        (wanted("entropy", classes=2), "does not consist of classes"),
        (wanted("member_mask", classes=1), "does not consist of classes"),
    ],
)
def test_unknown_outputs_are_refused(outputs, complaint):
    with pytest.raises(InvalidRequest, match=complaint):
        infer_options(model(), NOTHING, outputs)


def test_a_member_by_itself_has_one_output():
    with pytest.raises(InvalidRequest, match="no output 'entropy', it has output$"):
        infer_options(model(is_member=True), NOTHING, wanted("entropy"))


def test_unknown_members_are_refused():
    with pytest.raises(InvalidRequest, match="no member 'six', it has four, two"):
        infer_options(model(), RequestParameters(members=("two", "six")), wanted("output"))


def test_classes_need_an_output_per_class():
    image = model(output=TensorSpec("output", "FP32", (3, 1)))
    with pytest.raises(InvalidRequest, match="an output per class"):
        infer_options(image, NOTHING, wanted("output", classes=1))


def extras(options):
    filled = Extras(model().served.spec, options, 2)
    filled.used[:] = 0b10100, 0b100
    if options.scores:
        filled.scores[:] = np.arange(12).reshape(2, 6)
    for member, values in filled.predictions.items():
        values[:] = member
    return filled


def test_tensors_come_in_the_requested_order():
    outputs = wanted("variance", "output", "member_mask", "output.two")
    options = infer_options(model(), NOTHING, outputs)
    answer = Answer(VALUES.tobytes(), 2, 0b100, True, extras(options))
    variance, output, mask, two = output_tensors(model(), answer, outputs)
    assert (variance.name, variance.datatype, variance.shape) == ("variance", "FP32", [2])
    assert np.frombuffer(variance.data, np.float32).tolist() == [3, 9]
    assert (output.name, output.shape, bytes(output.data)) == ("output", [2, 3], VALUES.tobytes())
    assert (mask.datatype, mask.shape) == ("BOOL", [2, 2])
    assert np.frombuffer(mask.data, np.bool_).tolist() == [True, True, False, True]
    assert (two.shape, set(np.frombuffer(two.data, np.float32))) == ([2, 3], {2.0})


def test_classes_of_members():
    outputs = wanted("output.four", classes=1)
    options = infer_options(model(), NOTHING, outputs)
    answer = Answer(VALUES.tobytes(), 2, 0b10100, False, extras(options))
    (tensor,) = output_tensors(model(labels=("cat", "dog", "owl")), answer, outputs)
    assert (tensor.datatype, tensor.shape) == ("BYTES", [2, 1])
    assert [bytes(text) for text in split_elements(tensor.data)] == [b"4.000000:0:cat"] * 2
