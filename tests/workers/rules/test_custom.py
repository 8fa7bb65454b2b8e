import re
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
from arenas import vector

from workers.rules import custom
from workers.rules.catalogue import RuleError
from workers.rules.custom import CustomRule, resolve
from workers.runtime.spec import RuleSpec, TensorSpec

MEMBERS = ("a", "b", "c")


def spec(reference, directory):
    return RuleSpec(reference, (0,), (vector(2),), directory=str(directory))


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Write a module of a user's; its name, which no other test has."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    name = f"rules_of_{tmp_path.name.replace('-', '_')}"

    def write(text):
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(text))
        return name

    yield write
    sys.modules.pop(name, None)


@pytest.fixture
def make(module, tmp_path):
    def make(body, weights=(1.0, 1.0, 2.0)):
        text = "import numpy as np\ndef rule(predictions, weights, members):\n"
        name = module(text + textwrap.indent(textwrap.dedent(body), "    "))
        return CustomRule(spec(f"{name}:rule", tmp_path), MEMBERS, np.array(weights))

    return make


def answer(rule, chosen=(0, 1, 2), rows=2):
    given = np.arange(len(chosen) * rows * 2, dtype=np.float32).reshape(len(chosen), rows, 2)
    out = np.full((rows, 2), -1, np.float32)
    rule.for_members(list(chosen))([given], [out])
    return out


def test_what_a_rule_gets(make):
    rule = make("""
        assert predictions.shape == (2, 2, 2) and predictions.dtype == np.float32
        assert not predictions.flags.writeable and not weights.flags.writeable
        assert weights.tolist() == [1.0, 2.0] and weights.dtype == np.float64
        assert members == ("a", "c")
        return predictions[1]
    """)
    assert answer(rule, chosen=(0, 2)).tolist() == [[4, 5], [6, 7]]


@pytest.mark.parametrize(
    "returned",
    [
        "[[1, 2], [3, 4]]",
        "np.array([[1, 2], [3, 4]], np.float64)",
        "np.array([[1, 2], [3, 4]], 'i1')",
    ],
)
def test_any_numbers_will_do(make, returned):
    assert answer(make(f"return {returned}")).tolist() == [[1, 2], [3, 4]]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("raise ValueError('not\\ntoday')", "ValueError: not today"),
        ("raise KeyError", "KeyError"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("return predictions", "it returned shape [3, 2, 2], not [2, 2]"),
        ("return None", "it returned shape [], not [2, 2]"),
        ("return predictions[0] * np.nan", "NaN in what it returned"),
        ("return predictions[0].astype(complex)", "it returned complex128, not numbers"),
        ("return predictions[0].astype(str)", "not numbers"),
        ("predictions[0] = 1", "ValueError: assignment destination is read-only"),
        ("return [[1], [2, 3]]", "ValueError"),
    ],
)
def test_failures_are_errors_of_one_line(make, body, message):
    rule = make(body)
    for _ in range(2):
        with pytest.raises(RuleError) as caught:
            answer(rule)
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)


def test_what_it_says_can_be_sent_on(make):
    with pytest.raises(RuleError) as failure:
        answer(make('raise ValueError("no file \\udc80.csv")'))
    told = str(failure.value).encode()
    assert re.fullmatch(rb"ValueError: no file \?\.csv \(\w+\.py, line \d+\)", told)


def test_the_example_of_the_documentation(tmp_path, module):
    page = (Path(__file__).parents[3] / "docs/combination.md").read_text()
    name = module(page.partition("```python\n")[2].partition("```")[0])
    rule = CustomRule(spec(f"{name}:careful", tmp_path), MEMBERS, np.ones(3))
    predictions = np.array([[[1, 0], [4, 4]], [[2, 1], [4, 4]], [[9, 9], [4, 4]]], np.float32)
    out = np.empty((2, 2), np.float32)
    rule.for_members([0, 1, 2])([predictions], [out])
    assert out.tolist() == [[1.5, 0.5], [4, 4]]


def test_infinity_can_be_meant(make):
    assert np.isinf(answer(make("return np.full((2, 2), np.inf)"))).all()


def test_a_call_that_takes_too_long_is_interrupted_and_then_left_alone(make, monkeypatch):
    monkeypatch.setattr(custom, "CALL_LIMIT_S", 0.05)
    rule = make("""
        while True:
            try:
                pass
            except Exception:
                pass
    """)
    with pytest.raises(RuleError, match="took more than 0.05 s$"):
        answer(rule)
    with pytest.raises(RuleError, match="took more than 0.05 s a moment ago"):
        answer(rule)
    later = time.monotonic() + 60
    monkeypatch.setattr(custom.time, "monotonic", lambda: later)
    with pytest.raises(RuleError, match="took more than 0.05 s$"):
        answer(rule)


@pytest.mark.parametrize(
    ("text", "attribute", "message"),
    [
        ("rule = 3", "rule", "'rule' of module {name} is not a function"),
        ("def other(): pass", "rule", "has no 'rule'"),
        ("import no_such_thing", "rule", "importing {name} failed: ModuleNotFoundError"),
        ("1 / 0", "rule", "importing {name} failed: ZeroDivisionError: division by zero"),
        ("def rule(:", "rule", "importing {name} failed: SyntaxError"),
        ("raise SystemExit", "rule", "importing {name} failed: SystemExit"),
    ],
)
def test_what_can_be_wrong_with_a_module(module, tmp_path, text, attribute, message):
    name = module(text)
    with pytest.raises(RuleError) as caught:
        resolve(f"{name}:{attribute}", str(tmp_path))
    assert message.format(name=name) in str(caught.value)


def test_no_such_module(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(RuleError, match=r"there is no module 'nowhere', also not in /"):
        resolve("nowhere.at.all:rule", str(tmp_path))
    with pytest.raises(RuleError, match=r"there is no module 'json.nowhere'"):
        resolve("json.nowhere:rule", str(tmp_path))


def test_a_users_file_does_not_stand_in_for_an_installed_module(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "statistics.py").write_text("def mean(*_): raise AssertionError")
    monkeypatch.delitem(sys.modules, "statistics", raising=False)
    assert resolve("statistics:mean", str(tmp_path))([1, 2, 3]) == 2


def test_a_rule_may_yield_several_outputs_of_other_shapes(module, tmp_path):
    name = module("""
        def spread(predictions, weights, members):
            mean = predictions.mean(axis=(0, 2))
            found = {"pair": predictions[:2, :, 0].T, "mean": mean}
            return found if (mean >= 0).all() else {"mean": mean}
    """)
    outputs = TensorSpec("mean", "FP32", ()), TensorSpec("pair", "FP32", (2,))
    given = RuleSpec(f"{name}:spread", (0,), outputs, directory=str(tmp_path))
    apply = CustomRule(given, MEMBERS, np.ones(3)).for_members([0, 1, 2])
    predictions = np.arange(12, dtype=np.float32).reshape(3, 2, 2)
    answers = [np.zeros(2, np.float32), np.zeros((2, 2), np.float32)]
    apply([predictions], answers)
    assert answers[0].tolist() == [4.5, 6.5]
    assert answers[1].tolist() == [[0, 4], [2, 6]]
    with pytest.raises(RuleError, match="it returned mean, not mean, pair"):
        apply([-predictions], answers)
