import json

import pytest

from benchmarks.combining import main, measure_s
from workers.rules import RULES


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_can_be_measured(rule):
    assert measure_s(rule, classes=3, rows=64, rounds=1, members=3) > 0


def test_the_command(capsys):
    main(["--rounds", "1", "--rules", "mean", "--rows", "64", "--json"])
    (figures,) = json.loads(capsys.readouterr().out)
    assert figures["rule"] == "mean"
    assert figures["range_rows"] == 64
    assert figures["us_per_row_of_1000_classes"] > 0
    assert figures["member_rows_per_s_of_10_classes"] > 0
    main(["--rounds", "1", "--rules", "vote", "--rows", "64"])
    assert "vote" in capsys.readouterr().out
