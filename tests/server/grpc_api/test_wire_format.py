import pytest
from ensembled_client.wire.messages import message_class
from hypothesis import given
from hypothesis import strategies as st

from server.errors import InvalidRequest
from server.grpc_api.wire_format import check_part_count, length_prefixed, split_fields

Request = message_class("ModelInferRequest")

texts = st.text(max_size=200)


@st.composite
def requests(draw):
    request = Request(model_name=draw(texts), model_version=draw(texts), id=draw(texts))
    for name in draw(st.lists(texts, max_size=3)):
        request.inputs.add(name=name, datatype="FP32", shape=[1, 2])
        request.parameters[name].string_param = "v"
    request.outputs.add(name=draw(texts))
    request.raw_input_contents.extend(draw(st.lists(st.binary(max_size=300), max_size=4)))
    return request


def put_together(fields):
    request = Request.FromString(fields.head)
    if fields.id is not None:
        assert not request.id
        assert not request.raw_input_contents
        request.id = fields.id.decode()
        request.raw_input_contents.extend(map(bytes, fields.raw))
    return request


@given(requests())
def test_the_parts_are_the_request(request_):
    fields = split_fields(request_.SerializeToString())
    assert fields.id == request_.id.encode()
    assert list(map(bytes, fields.raw)) == list(request_.raw_input_contents)
    assert put_together(fields) == request_


@given(requests(), requests())
def test_fields_in_any_order_and_given_twice(one, two):
    """As every parser must: of a text the last one counts, lists grow."""
    data = one.SerializeToString() + two.SerializeToString()
    both = Request.FromString(data)
    if not two.id:
        both.id = one.id
    assert put_together(split_fields(data)) == both


@given(st.binary(max_size=100))
def test_split_fields_agree_with_protobuf(data):
    fields = split_fields(data)
    try:
        whole = Request.FromString(data)
    except Exception:
        whole = None
    try:
        parts = put_together(fields)
    except Exception:
        parts = None
    assert parts == whole


@given(requests(), st.data())
def test_a_request_cut_short_is_no_other_request(request_, data):
    serialized = request_.SerializeToString()
    cut = serialized[: data.draw(st.integers(0, len(serialized)))]
    test_split_fields_agree_with_protobuf.hypothesis.inner_test(cut)


@pytest.mark.parametrize(
    "data",
    [
        b"\x0a",  # a field without its length
        b"\x0a\x05ab",  # longer than the message
        b"\x08\x01",  # a number
        b"\x42\x00",  # field 8
        b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",  # a length beyond all bounds
        b"\x0a\x80",  # a length without an end
    ],
)
def test_messages_that_need_a_parser_are_left_whole(data):
    assert split_fields(data) == (data, None, ())


def test_a_length_with_redundant_bytes():
    assert split_fields(b"\x1a\x82\x80\x00ab").id == b"ab"


def test_too_many_fields_are_refused():
    with pytest.raises(InvalidRequest, match="4096"):
        split_fields(b"\x3a\x00" * 5000)


@pytest.mark.parametrize("size", [0, 1, 127, 128, 300, 16383, 16384, 1 << 20])
def test_a_field_with_its_length(size):
    content = b"x" * size
    request = Request.FromString(b"".join(length_prefixed(7, content)))
    assert list(request.raw_input_contents) == [content]


def request_of(fill):
    request = Request(model_name="m")
    tensor = request.inputs.add(name="x", datatype="BYTES", shape=[1])
    request.outputs.add(name="output")
    fill(tensor)
    return request.SerializeToString()


@pytest.mark.parametrize(
    "fill",
    [
        lambda tensor: tensor.contents.bytes_contents.extend([b""] * 40_000),
        lambda tensor: [tensor.parameters[str(i)].SetInParent() for i in range(40_000)],
    ],
)
def test_millions_of_parts_are_refused_before_a_parser_makes_them(fill):
    with pytest.raises(InvalidRequest, match="more than 32768 parts"):
        check_part_count(request_of(fill))


def test_numbers_that_are_not_packed_are_parts():
    unpacked = b"\x08\x01" * 40_000  # `bool_contents`, one by one
    contents = b"".join(length_prefixed(5, unpacked))
    with pytest.raises(InvalidRequest):
        check_part_count(b"".join(length_prefixed(5, contents)))
    fixed = b"\x35abcd" * 40_000  # `fp32_contents`, one by one
    contents = b"".join(length_prefixed(5, fixed))
    with pytest.raises(InvalidRequest):
        check_part_count(b"".join(length_prefixed(5, contents)))


@given(st.binary(max_size=200))
def test_part_counting_always_ends(data):
    check_part_count(data)
    check_part_count(b"".join(length_prefixed(5, data)))


def test_big_tensors_have_few_parts():
    check_part_count(
        request_of(lambda tensor: tensor.contents.fp32_contents.extend([1.0] * 100_000))
    )
    check_part_count(
        request_of(lambda tensor: tensor.contents.bytes_contents.extend([b"ab"] * 16_384))
    )
