import json

import pytest
import yaml

from benchmarks.figures import PairFigures, Spread, ValidationFigures
from benchmarks.table import validation_table
from benchmarks.validation import PAIRS, configured, promise
from server.config import load_config


def pair(name):
    return next(one for one in PAIRS if one.name.startswith(name))


def figures(error):
    return PairFigures("some", 4, Spread(100.0, 90.0, 110.0), 100.0 * (1 + error), 120.0, error)


def test_the_median_error_knows_no_sign():
    assert ValidationFigures(tuple(map(figures, (-0.3, 0.1, 0.2)))).median_error == 0.2


def test_the_table_shows_promise_beside_measurement():
    table = validation_table(ValidationFigures((figures(-0.08),)))
    assert "Median error 8.0%." in table
    assert "| some | 4 | 100 (90–110) | 92 | -8% | 120 |" in table


def test_there_are_real_and_fake_members_on_at_least_six_matrices():
    matrices = {json.dumps([one.name, one.matrix]) for one in PAIRS}
    assert len(matrices) >= 6
    assert {one.is_fake for one in PAIRS} == {True, False}


def test_a_pair_is_served_on_its_matrix(tmp_path):
    one = pair("fakes of 2, 5 and 11 ms, shared")
    config = load_config(configured(one, tmp_path))
    assert config.allocation == tmp_path / "allocation.json"
    written = json.loads((tmp_path / "allocation.json").read_text())
    assert written["devices"] == ["cpu:0", "cpu:1", "cpu:2"]
    assert written["matrix"] == [[4, 0, 4], [0, 4, 4], [0, 0, 4]]
    assert "allocation" not in (yaml.safe_load(yaml.safe_dump(dict(one.config))) or {})


def test_the_simulation_stays_below_the_model_that_knows_no_load(tmp_path):
    one = pair("fakes of 2, 5 and 11 ms, worst-fit")
    simulated, modelled = promise(one, load_config(configured(one, tmp_path)))
    assert modelled == pytest.approx(8 / 0.01102, rel=0.01)
    assert 0.5 * modelled < simulated < modelled
