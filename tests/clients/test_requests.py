"""Requests bigger than the limits: in pieces, and together again."""

from dataclasses import replace

import numpy as np
import pytest
from ensembled_client import RequestTooLarge, ServerFailure
from ensembled_client.inputs import tensors_for
from ensembled_client.requests import InferCall, join_responses, split_call
from ensembled_client.wire import InferResponse
from hypothesis import given
from hypothesis import strategies as st

IMAGE = {"inputs": [{"name": "image", "datatype": "BYTES", "shape": [-1]}]}
X = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}]}


def call(tensors, **parameters):
    return InferCall("m", tensors, {"output": 0}, parameters)


@given(
    st.lists(st.binary(max_size=30), min_size=1, max_size=30),
    st.integers(34, 200),
    st.none() | st.integers(1, 8),
)
def test_pieces_keep_to_the_limits_and_are_the_whole(elements, limit_bytes, max_rows):
    request = call(tensors_for(IMAGE, elements), quorum=1)
    pieces = split_call(request, limit_bytes=limit_bytes, overhead_bytes=0, max_rows=max_rows)
    assert b"".join(bytes(piece.tensors[0].data) for piece in pieces) == request.tensors[0].data
    assert sum(piece.tensors[0].row_count for piece in pieces) == len(elements)
    for piece in pieces:
        (tensor,) = piece.tensors
        assert len(tensor.data) <= limit_bytes
        assert max_rows is None or tensor.row_count <= max_rows
        assert replace(piece, tensors=()) == replace(request, tensors=())
    if max_rows is None:  # none of them could have been longer
        for piece, after in zip(pieces, pieces[1:], strict=False):
            more = after.tensors[0].end_of(0)
            assert len(piece.tensors[0].data) + more > limit_bytes


def test_a_row_that_is_too_large():
    request = call(tensors_for(IMAGE, [b"a", b"b" * 100]))
    with pytest.raises(RequestTooLarge, match="row 1 alone is larger .* limit of 90 bytes"):
        split_call(request, limit_bytes=90, overhead_bytes=10)


def test_no_limit_no_pieces():
    request = call(tensors_for(X, np.zeros((5, 2))))
    assert split_call(request, limit_bytes=None, overhead_bytes=0) == [request]
    assert len(split_call(request, limit_bytes=None, overhead_bytes=0, max_rows=2)) == 3


def test_answers_together():
    answers = [
        InferResponse(
            {"output": np.full((rows, 2), rows), "entropy": np.zeros(rows)},
            {"members": members, "degraded": degraded, "more": 1},
        )
        for rows, members, degraded in [(2, "a,b,c", False), (1, "c,b", True), (3, "a,b,c", False)]
    ]
    whole = join_responses(answers)
    assert whole.outputs["output"][:, 0].tolist() == [2, 2, 1, 3, 3, 3]
    assert whole.outputs["entropy"].shape == (6,)
    assert whole.parameters == {"members": "b,c", "degraded": True, "more": 1}
    assert join_responses(answers[:1]) is answers[0]


def test_answers_that_do_not_fit_together():
    answers = [
        InferResponse({"output": np.zeros((1, 2))}),
        InferResponse({"output": np.zeros((1, 3))}),
    ]
    with pytest.raises(ServerFailure, match="don't fit together"):
        join_responses(answers)
    with pytest.raises(ServerFailure, match="don't fit together"):
        join_responses([answers[0], InferResponse({})])


@pytest.mark.parametrize("limit_bytes", [400, 700, 1200])
def test_both_protocols_keep_to_the_servers_limit(model, client, limit_bytes):
    model.limit_bytes = limit_bytes
    x = np.arange(400, dtype=np.float32).reshape(200, 2)
    prediction = client.predict("duo", x, uncertainty=["variance"], timeout=60)
    assert (prediction.values == x + 1).all()
    assert (prediction.uncertainty["variance"] == x[:, 0] + 1).all()
    assert prediction.timing.pieces == prediction.timing.tries == len(model.requests) > 1
    assert all(len(tensors["x"][1]) < limit_bytes for _, tensors, _ in model.requests)
    assert limit_bytes - 64 < max(model.sizes_bytes) <= limit_bytes


def test_rows_at_most(model, client):
    x = np.arange(20, dtype=np.float32).reshape(10, 2)
    assert (client.predict("duo", x, max_rows=3).values == x + 1).all()
    assert sorted(tensors["x"][0][0] for _, tensors, _ in model.requests) == [1, 3, 3, 3]


def test_a_row_that_is_too_large_is_not_sent(model, client):
    model.limit_bytes = 40
    with pytest.raises(RequestTooLarge, match="row 0 alone"):
        client.predict("duo", [[1, 2]])
    assert model.requests == []


def test_inputs_that_disagree_about_their_rows_are_left_to_the_server():
    two = {"inputs": [*X["inputs"], {**X["inputs"][0], "name": "y"}]}
    given = tensors_for(two, {"x": np.zeros((4, 2)), "y": np.zeros((3, 2))})
    request = call(given)
    assert split_call(request, limit_bytes=20, overhead_bytes=0, max_rows=1) == [request]
