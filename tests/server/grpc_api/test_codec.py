from contextlib import suppress

import numpy as np
import pytest
from ensembled_client.wire import DTYPES, join_elements
from ensembled_client.wire.messages import message_class
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from server.errors import InvalidRequest
from server.grpc_api.codec import (
    decode_fields,
    encode_error,
    encode_response,
    encode_streamed,
    parse,
)
from server.grpc_api.wire_format import split_fields
from server.inference.outputs import OutputTensor
from server.inference.requests import RequestedOutput, RequestParameters
from server.versions import ModelName

Request = message_class("ModelInferRequest")
Response = message_class("ModelInferResponse")
StreamResponse = message_class("ModelStreamInferResponse")

FIELDS = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
}
shapes = npst.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=4)


def ask(datatype="FP32", shape=(1, 2)):
    """A request of one input without its data."""
    request = Request(model_name="m")
    request.inputs.add(name="x", datatype=datatype, shape=shape)
    return request


def parameter(request, name, **value):
    for kind, given_ in value.items():
        setattr(request.parameters[name], kind, given_)
    return request


def output_parameter(name, **value):
    request = ask()
    for kind, given_ in value.items():
        setattr(request.outputs.add(name="output").parameters[name], kind, given_)
    return request


def input_parameter(name, **value):
    request = ask()
    for kind, given_ in value.items():
        setattr(request.inputs[0].parameters[name], kind, given_)
    return request


def read(request):
    return decode_fields(split_fields(request.SerializeToString()))


def tensors(request):
    return read(request).build().tensors


def same(tensor, array):
    assert tensor.array.dtype == array.dtype
    assert tensor.array.shape == array.shape
    assert tensor.array.tobytes() == array.tobytes()


# -- tensors -----------------------------------------------------------------------------------


@pytest.mark.parametrize("datatype", sorted(DTYPES))
@given(data=st.data())
def test_raw_tensors_of_every_datatype(datatype, data):
    array = data.draw(npst.arrays(DTYPES[datatype], shapes))
    request = ask(datatype=datatype, shape=array.shape)
    request.raw_input_contents.append(array.tobytes())
    (tensor,) = tensors(request)
    assert (tensor.name, tensor.datatype, tuple(tensor.shape)) == ("x", datatype, array.shape)
    same(tensor, array)


@pytest.mark.parametrize("datatype", sorted(FIELDS))
@given(data=st.data())
def test_typed_tensors_of_every_datatype(datatype, data):
    array = data.draw(npst.arrays(DTYPES[datatype], shapes))
    if array.dtype.kind == "f":  # what a NaN carries is not kept
        array = np.where(np.isnan(array), np.array(np.nan, array.dtype), array)
    request = ask(datatype=datatype, shape=array.shape)
    getattr(request.inputs[0].contents, FIELDS[datatype]).extend(array.ravel().tolist())
    (tensor,) = tensors(request)
    same(tensor, array)


@given(st.lists(st.binary(max_size=20), max_size=5), st.booleans())
def test_bytes_raw_and_typed(elements, raw):
    request = ask(datatype="BYTES", shape=[len(elements)])
    if raw:
        request.raw_input_contents.append(join_elements(elements))
    else:
        request.inputs[0].contents.bytes_contents.extend(elements)
    (tensor,) = tensors(request)
    assert list(map(bytes, tensor.elements)) == elements


@pytest.mark.parametrize(
    ("datatype", "values"),
    [("INT8", [128]), ("INT16", [-32769]), ("UINT8", [256]), ("UINT16", [65536])],
)
def test_a_typed_value_out_of_range(datatype, values):
    request = ask(datatype=datatype, shape=[1])
    getattr(request.inputs[0].contents, FIELDS[datatype]).extend(values)
    with pytest.raises(InvalidRequest, match=f"'x': a value is out of the range of {datatype}"):
        tensors(request)


@pytest.mark.parametrize("datatype", ["FP16", "BF16"])
def test_datatypes_that_are_only_sent_raw(datatype):
    request = ask(datatype=datatype, shape=[1])
    request.inputs[0].contents.fp32_contents.append(1)
    with pytest.raises(InvalidRequest, match="only taken in raw_input_contents"):
        tensors(request)


def with_contents(request, field="fp32_contents", values=(1, 2)):
    getattr(request.inputs[-1].contents, field).extend(values)
    return request


def with_raw(request, *raw):
    request.raw_input_contents.extend(raw)
    return request


EIGHT = bytes(8)

BAD_TENSORS = {
    "raw and typed": (with_raw(with_contents(ask()), EIGHT), "has contents, and raw_input"),
    "no data at all": (ask(), "0 bytes of data"),
    "raw for one too many": (with_raw(ask(), EIGHT, EIGHT), "1 inputs, but .* for 2"),
    "raw too short": (with_raw(ask(), b"123"), "3 bytes of data"),
    "typed too short": (with_contents(ask(), values=[1]), "takes 8"),
    "typed in another field": (with_contents(ask(), "fp64_contents"), "goes into fp32_contents"),
    "typed in two fields": (
        with_contents(with_contents(ask()), "int_contents"),
        "goes into fp32_contents, not into int_contents",
    ),
    "a negative shape": (with_raw(ask(shape=[-1, 2]), EIGHT), "negative"),
    "no such datatype, raw": (with_raw(ask(datatype="FP31"), EIGHT), "'FP31' is not supported"),
    "no such datatype, typed": (with_contents(ask(datatype="")), "'' is not supported"),
    "bytes that end too soon": (with_raw(ask(datatype="BYTES", shape=[1]), b"\5\0\0\0a"), "longer"),
}


@pytest.mark.parametrize("case", BAD_TENSORS)
def test_invalid_tensors(case):
    request, says = BAD_TENSORS[case]
    with pytest.raises(InvalidRequest, match=says):
        tensors(request)


def test_empty_contents_beside_raw_are_no_contents():
    request = with_raw(ask(), EIGHT)
    request.inputs[0].contents.SetInParent()
    same(tensors(request)[0], np.zeros((1, 2), np.float32))


def test_several_inputs_keep_their_order():
    request = with_raw(ask(), EIGHT, b"\x01")
    request.inputs.add(name="y", datatype="UINT8", shape=[1])
    assert [(t.name, t.array.ravel().tolist()) for t in tensors(request)] == [
        ("x", [0, 0]),
        ("y", [1]),
    ]


# -- the rest of a request ---------------------------------------------------------------------


def test_decoding_of_a_request():
    request = with_raw(ask(), EIGHT)
    request.model_version, request.id = "1", "straße"
    request.parameters["timeout"].int64_param = 2_000_000
    request.parameters["members"].string_param = "a,b"
    request.parameters["quorum"].uint64_param = 1
    request.parameters["triton_enable_empty_final_response"].bool_param = True
    request.parameters["none"].SetInParent()
    output = request.outputs.add(name="output")
    output.parameters["classification"].int64_param = 3
    output.parameters["binary_data"].bool_param = False
    request.outputs.add(name="entropy")
    asked = read(request)
    assert (asked.head.model, asked.head.version, asked.id) == ("m", "1", "straße")
    made = asked.build()
    assert made.id == "straße"
    assert made.parameters == RequestParameters(2.0, ("a", "b"), 1)
    assert [(o.name, o.classes) for o in made.outputs] == [("output", 3), ("entropy", 0)]


@pytest.mark.parametrize(
    ("request_", "complaint"),
    [
        (parameter(ask(), "memberz", string_param="a"), "there is no parameter 'memberz'"),
        (output_parameter("classes", int64_param=2), "output 'output': there is no parameter"),
        (input_parameter("size", int64_param=2), "input 'x': there is no parameter 'size'"),
    ],
)
def test_a_parameter_that_nobody_knows_is_noted(request_, complaint):
    assert read(request_).head.complaint.startswith(complaint)


def test_the_combined_output_is_the_default():
    assert read(ask()).head.outputs == (RequestedOutput(is_default=True),)


def test_requests_that_differ_only_in_id_and_data():
    for number in range(3):
        request = with_raw(ask(), np.full(2, number, np.float32).tobytes())
        request.id = str(number)
        asked = read(request)
        assert asked.id == str(number)
        same(asked.build().tensors[0], np.full((1, 2), number, np.float32))


BAD_REQUESTS = {
    "timeout is no number": (parameter(ask(), "timeout", string_param="1"), "timeout"),
    "timeout is below zero": (parameter(ask(), "timeout", int64_param=-1), "timeout"),
    "quorum is a truth": (parameter(ask(), "quorum", bool_param=True), "quorum"),
    "members are a number": (parameter(ask(), "members", int64_param=1), "members"),
    "classes below zero": (output_parameter("classification", int64_param=-1), "classification"),
    "classes in words": (output_parameter("classification", string_param="3"), "classification"),
    "shared memory in": (
        input_parameter("shared_memory_region", string_param="r"),
        "shared memory",
    ),
    "shared memory out": (output_parameter("shared_memory_region", string_param="r"), "shared"),
}


@pytest.mark.parametrize("case", BAD_REQUESTS)
def test_invalid_requests(case):
    request, says = BAD_REQUESTS[case]
    with pytest.raises(InvalidRequest, match=says):
        read(request)


@pytest.mark.parametrize(
    "data",
    [
        b"\xff\xff\xff",
        b"\x0a\x05ab",
        b"\x0a\x02\xff\xfe",  # a model's name that is not UTF-8
        b"\x1a\x02\xff\xfe",  # such an id
        b"\x2a\x02\x08\x01",  # an input whose name is a number, so it has none: no data either
    ],
)
def test_malformed_messages(data):
    with pytest.raises(InvalidRequest):
        decode_fields(split_fields(data)).build()


@given(st.binary(max_size=200))
def test_any_bytes_are_decoded_or_refused(data):
    with suppress(InvalidRequest):
        decode_fields(split_fields(data)).build()


def test_unknown_fields_are_ignored():
    request = with_raw(ask(), EIGHT)
    request.id = "7"
    data = request.SerializeToString() + b"\x42\x02ab\x48\x01"  # fields 8 and 9
    asked = decode_fields(split_fields(data))
    assert asked.id == "7"
    same(asked.build().tensors[0], np.zeros((1, 2), np.float32))


def test_a_malformed_message_of_any_class():
    with pytest.raises(InvalidRequest, match="the message is no ModelReadyRequest"):
        parse(message_class("ModelReadyRequest"), b"\xff")


# -- answers -----------------------------------------------------------------------------------


@given(
    st.text(max_size=20),
    st.booleans(),
    st.lists(st.tuples(st.text(max_size=9), st.binary(max_size=300)), max_size=4),
)
def test_responses(request_id, degraded, outputs):
    made = [OutputTensor(name, "UINT8", [1, len(data)], data) for name, data in outputs]
    expected = Response(model_name="m", model_version="2", id=request_id)
    expected.parameters["members"].string_param = "a,b"
    expected.parameters["degraded"].bool_param = degraded
    expected.parameters["generation"].int64_param = 7
    for name, data in outputs:
        expected.outputs.add(name=name, datatype="UINT8", shape=[1, len(data)])
        expected.raw_output_contents.append(data)
    serialized = encode_response(
        ModelName("m", "2"), request_id, "a,b", degraded, made, generation=7
    )
    assert Response.FromString(serialized) == expected
    streamed = StreamResponse.FromString(encode_streamed(serialized))
    assert streamed.infer_response == expected
    assert streamed.error_message == ""


def test_an_error_in_a_stream():
    told = StreamResponse.FromString(encode_error("no", "7"))
    assert (told.error_message, told.infer_response.id) == ("no", "7")
