"""What may be the name of a request."""

from hypothesis import given
from hypothesis import strategies as st

from server.inference.request_ids import acceptable, new_id


@given(st.text(max_size=200))
def test_an_id_is_short_and_visible(text):
    assert acceptable(text) in {"", text}
    if acceptable(text):
        assert len(text) <= 128
        assert text.isascii()
        assert text.isprintable()
        assert " " not in text


def test_the_first_that_can_be_used_counts():
    assert acceptable("a", "b") == "a"
    assert acceptable("", "b") == "b"
    assert acceptable("a b", "x" * 129, "x" * 128) == "x" * 128
    assert acceptable("a\n", "") == ""
    assert acceptable(new_id()) != acceptable(new_id()) != ""
