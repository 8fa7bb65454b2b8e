"""A cascade that was calibrated, served: it saves what was told, and loses no more than allowed."""

from pathlib import Path

import pytest
import yaml
from digits import held_out
from digits_data import write_data
from serving import with_absolute_recipes

from benchmarks.cascade import measure

DIGITS = Path(__file__).parents[2] / "configs/digits.yaml"
STAGES = ("deep", "mlp", "residual", "cnn", "attention")


@pytest.mark.process
@pytest.mark.slow
def test_a_served_cascade_of_digits_does_what_was_told(tmp_path):
    document = with_absolute_recipes(DIGITS)
    cascade = {"cascade": [[name] for name in STAGES], "confidence": [0.9] * 4}
    document["ensembles"]["digits"] |= cascade
    config = tmp_path / "digits.yaml"
    config.write_text(yaml.safe_dump(document))
    served = measure(write_data(tmp_path, *held_out())[0], tmp_path, config=config)
    assert served.asked_whole == (served.rows,) * len(STAGES)
    assert served.asked[0] == served.rows
    assert list(served.asked) == sorted(served.asked, reverse=True)
    assert served.saved == pytest.approx(served.told_saved)
    assert served.right == served.told_right
    assert served.saved >= 0.4
    assert served.points >= -0.2
