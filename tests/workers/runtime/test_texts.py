from hypothesis import given
from hypothesis import strategies as st

from workers.runtime.texts import abridge


@given(st.text(), st.integers(3, 50))
def test_no_longer_than_it_may_be(text, max_bytes):
    short = abridge(text, max_bytes)
    assert len(short.encode(errors="backslashreplace")) <= max_bytes
    assert short == text or "..." in short


def test_both_what_happened_and_the_reason_are_kept():
    text = f"cannot open a.onnx: {'x' * 5000}: opset 99 is too new"
    short = abridge(text, 100)
    assert len(short) == 100
    assert short.startswith("cannot open a.onnx: ")
    assert short.endswith(": opset 99 is too new")


def test_a_short_text_is_whole():
    assert abridge("ää", 4) == "ää"
