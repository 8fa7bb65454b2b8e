"""Every recipe runs as it stands, in a directory of its own, and ends in a served ensemble."""

import importlib.util
import re
from itertools import pairwise

import pytest

from tests.docs.pages import ROOT, Reader, blocks_of

PAGE = ROOT / "docs/recipes.md"
LINES = PAGE.read_text().splitlines()
STARTS = [number for number, line in enumerate(LINES, 1) if line.startswith("## ")]
RECIPES = {LINES[start - 1][3:]: range(start, end) for start, end in pairwise([*STARTS, 10**6])}
#: What takes too much to be installed for all tests; `make test-doors` has it.
LARGE = {"Keras": "keras"}

#: One device without measurements does: where members run does not matter here.
SMALL = """\
placement: {profile_s: 0}
devices: [{name: "cpu:0"}]
ensembles:
"""


def test_every_block_says_what_it_is():
    fences = re.findall(r"^```(\w*)", PAGE.read_text(), re.MULTILINE)[::2]
    assert set(fences) <= {"sh", "console", "python", "yaml", "text"}


@pytest.mark.process
@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe(name, tmp_path):
    if (package := LARGE.get(name)) and importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    blocks = [block for block in blocks_of(PAGE) if block.line in RECIPES[name]]
    assert any("ensembled serve" in block.text for block in blocks)
    with Reader(tmp_path, replace={"ensembles:\n": SMALL}) as reader:
        for block in blocks:
            reader.follow(block)
