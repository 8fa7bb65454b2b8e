"""Every code block of the tutorial runs, in its order, and prints what the page shows."""

import pytest

from tests.docs.pages import ROOT, Reader, blocks_of


@pytest.mark.process
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_tutorial(tmp_path):
    blocks = blocks_of(ROOT / "docs/tutorial.md")
    assert len(blocks) > 8
    with Reader(tmp_path) as reader:
        for block in blocks:
            reader.follow(block)
