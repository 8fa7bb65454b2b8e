import pytest

from server.inference.parameters import IMAGE_QUERY, INPUT, OUTPUT, REQUEST


@pytest.mark.parametrize(
    ("known", "names"),
    [
        (REQUEST, ()),
        (REQUEST, ("members", "quorum", "timeout", "priority", "binary_data_output")),
        (REQUEST, ("sequence_id", "sequence_start", "sequence_end")),
        (REQUEST, ("triton_enable_empty_final_response", "headers", "content_type")),
        (INPUT, ("binary_data_size", "content_type", "shared_memory_region")),
        (OUTPUT, ("binary_data", "classification", "shared_memory_offset")),
        (IMAGE_QUERY, ("classification",)),
    ],
)
def test_what_the_server_and_clients_of_the_protocol_use_passes(known, names):
    assert known.complain("", dict.fromkeys(names, 1)) == ""


@pytest.mark.parametrize(
    ("known", "where", "name", "complaint"),
    [
        (REQUEST, "", "memberz", "there is no parameter 'memberz', did you mean 'members'?"),
        (REQUEST, "", "weights", "there is no parameter 'weights', it may be members, quorum,"),
        (INPUT, "input 'x'", "binary_size", "input 'x': there is no parameter 'binary_size', did"),
        (OUTPUT, "output 'y'", "class", "output 'y': there is no parameter 'class'"),
        (IMAGE_QUERY, "query", "outputs", "query: there is no parameter 'outputs', it may be"),
    ],
)
def test_an_unknown_one_is_named_with_the_nearest(known, where, name, complaint):
    assert known.complain(where, {"triton_x": 1, name: 1}).startswith(complaint)
