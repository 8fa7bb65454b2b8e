"""The tests that docs/reliability.md names exist."""

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
PAGE = TESTS.parent / "docs" / "reliability.md"
NAMED = re.findall(r"`([\w/]+\.py)::(\w+)`", PAGE.read_text())


def test_there_are_some():
    assert len(NAMED) > 80


@pytest.mark.parametrize("file", sorted({file for file, _ in NAMED}))
def test_named_tests_exist(file):
    defined = set(re.findall(r"^(?:async )?def (test_\w+)", (TESTS / file).read_text(), re.M))
    assert {name for one, name in NAMED if one == file} <= defined


def test_every_line_of_a_table_of_tests_names_one():
    tables = PAGE.read_text().split("## What is tested where")[1]
    rows = [line for line in tables.splitlines() if line.startswith("| ") and "---" not in line]
    assert all(".py::test_" in row for row in rows if not row.startswith("| fault |"))
