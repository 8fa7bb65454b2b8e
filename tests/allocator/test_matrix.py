import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from allocator.matrix import AllocationMatrix


def test_instances_are_the_non_zero_cells():
    matrix = AllocationMatrix(("a", "b"), ("cuda:0", "cpu:0"), ((8, 0), (0, 4)))
    assert list(matrix.instances()) == [("cuda:0", "a", 8), ("cpu:0", "b", 4)]
    assert matrix.batch("cpu:0", "b") == 4


@given(st.data())
def test_the_file_gives_the_matrix_back(data):
    columns, rows = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 4))
    cells = [tuple(data.draw(st.integers(0, 64)) for _ in range(columns)) for _ in range(rows - 1)]
    cells.append((1,) * columns)
    matrix = AllocationMatrix(
        tuple(f"m{i}" for i in range(columns)), tuple(f"cpu:{i}" for i in range(rows)), tuple(cells)
    )
    assert AllocationMatrix.from_json(matrix.to_json(solver="worst-fit", gap=0.0)) == matrix


GOOD = {"members": ["a", "b"], "devices": ["cpu:0"], "matrix": [[1, 2]]}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"matrix": [[1, 0]]}, "'b' has no instance"),
        ({"matrix": [[1]]}, "1 cells for 2 members on cpu:0"),
        ({"matrix": []}, "0 rows for 1 devices"),
        ({"matrix": [[1, -2]]}, "negative"),
        ({"matrix": [[1, True]]}, r"matrix\[0\]\[1\]: Expected `int`, got `bool`"),
        ({"matrix": [1]}, r"matrix\[0\]: Expected `array`, got `int`"),
        ({"matrix": None}, "matrix: Expected `array`, got `null`"),
        ({"members": ["a", "a"]}, "'a' is there twice"),
        ({"members": ["a", 3]}, r"members\[1\]: Expected `str`, got `int`"),
    ],
)
def test_a_wrong_file_is_described_in_one_line(change, words):
    with pytest.raises(ValueError, match=words) as raised:
        AllocationMatrix.from_json(json.dumps(GOOD | change))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "\n\n{]"])
def test_what_is_not_an_allocation_is_described_in_one_line(text):
    with pytest.raises(ValueError, match="is not JSON|Expected `object`") as raised:
        AllocationMatrix.from_json(text)
    assert "\n" not in str(raised.value)
