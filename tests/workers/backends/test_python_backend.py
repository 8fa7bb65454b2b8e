"""Members in Python: what is recognised, described, refused, and what a prediction may be."""

import signal
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tests.workers.model_files import CPU
from workers import backends
from workers.backends import ModelError
from workers.runtime.spec import ModelSource, PythonSource, TensorSpec

X = np.arange(6, dtype=np.float32).reshape(2, 3)
DECLARED = (TensorSpec("x", "FP32", (3,)),)
NET = """
    import torch
    class Net(torch.nn.Module):
        def __init__(self, width=3):
            super().__init__()
            torch.manual_seed(0)
            self.linear = torch.nn.Linear(3, width)
        def forward(self, x):
            return self.linear(x)
"""


def source(tmp_path: Path, code: str, name: str = "Model", **fields: object) -> ModelSource:
    file = tmp_path / f"mine{len(list(tmp_path.iterdir()))}.py"
    file.write_text(textwrap.dedent(code))
    declared = fields.pop("declared", ())
    python = PythonSource(target=f"{file}:{name}", directory=str(tmp_path), **fields)  # type: ignore[arg-type]
    return ModelSource("m", "python", declared=declared, python=python)  # type: ignore[arg-type]


def refusal(tmp_path: Path, code: str, name: str = "Model", **fields: object) -> str:
    wanted = source(tmp_path, code, name, **fields)
    with pytest.raises(ModelError) as caught:
        backends.load(wanted, CPU)
    text = str(caught.value)
    assert "\n" not in text
    assert text.startswith(f"member m ({wanted.origin}): ")
    return text


def test_a_class_describes_itself_and_is_called_by_name(tmp_path):
    model = backends.load(
        source(
            tmp_path,
            """
            import numpy as np
            class Model:
                output = "logits"
                def __init__(self, factor):
                    self.factor = factor
                def load(self, device):
                    assert device == "cpu"
                    self.inputs = {"y": ("INT64", []), "x": ("FP32", [3])}
                    self.labels = ["a", "b", 3]
                def predict(self, x, y):
                    return self.factor * x + y[:, None]
            """,
            args={"factor": 2},
        ),
        CPU,
    )
    assert model.signature.inputs == (TensorSpec("x", "FP32", (3,)), TensorSpec("y", "INT64", ()))
    assert model.signature.output == TensorSpec("output", "FP64", (3,))
    assert model.signature.labels == {"output": ("a", "b", "3")}
    assert model.signature.kinds == {"output": "logits"}
    np.testing.assert_array_equal(
        model.predict([X, np.array([10, 20])])[0], 2 * X + [[10], [20]], strict=True
    )
    model.close()
    model.close()


def test_columns_keep_the_order_of_the_description(tmp_path):
    code = """
        class Model:
            inputs = {"b": ("FP32", []), "a": ("FP32", [])}
            def predict(self, **columns):
                assert list(columns) == ["b", "a"]
                return columns["b"] - columns["a"]
    """
    model = backends.load(source(tmp_path, code), CPU)
    assert [one.name for one in model.signature.inputs] == ["b", "a"]
    one, two = np.ones(2, np.float32), np.full(2, 2, np.float32)
    assert model.predict([two, one])[0].tolist() == [1, 1]


def test_the_configuration_describes_inputs_first(tmp_path):
    code = """
        class Model:
            inputs = {"x": ("FP32", [4])}
            def predict(self, x, factor=2):
                return {"double": factor * x, "half": x / 2}
    """
    wanted = source(tmp_path, code, declared=DECLARED)
    assert "has 2 outputs, name the one to use" in refusal(tmp_path, code)
    chosen = ModelSource("m", "python", "", DECLARED, ("half",), python=wanted.python)
    model = backends.load(chosen, CPU)
    assert model.signature.inputs == DECLARED
    np.testing.assert_array_equal(model.predict([X])[0], X / 2)


def test_what_a_prediction_changes_is_its_own_copy(tmp_path):
    code = """
        class Model:
            def predict(self, x):
                x += 1
                return x
    """
    model = backends.load(source(tmp_path, code, declared=DECLARED), CPU)
    x = X.copy()
    x.flags.writeable = False
    np.testing.assert_array_equal(model.predict([x])[0], X + 1)
    np.testing.assert_array_equal(x, X)


def test_an_example_stands_in_for_zeros(tmp_path):
    code = """
        class Model:
            inputs = {"x": ("FP32", [3])}
            example = {"x": [[1, 2, 3]]}
            def predict(self, x):
                if not x.all():
                    raise ValueError("zero")
                return x
    """
    model = backends.load(source(tmp_path, code), CPU)
    assert model.example is not None
    np.testing.assert_array_equal(model.example[0], [[1, 2, 3]])
    wrong = code.replace("[[1, 2, 3]]", "[1, 2, 3]")
    assert "its example of the input 'x' is wrong" in refusal(tmp_path, wrong)
    varying = code.replace("[3]", "['n'], [8]")
    model = backends.load(source(tmp_path, varying), CPU)
    assert model.signature.output == TensorSpec("output", "FP32", (-1,), (8,), ("n",))
    nothing = varying.replace("[[1, 2, 3]]", "[[]]")
    assert "its example of the input 'x' is wrong" in refusal(tmp_path, nothing)


def test_a_function_makes_a_model_from_an_installed_module():
    python = PythonSource("torch.nn:Linear", {"in_features": 3, "out_features": 2}, "/nowhere")
    declared = (TensorSpec("input", "FP32", (3,)),)
    model = backends.load(ModelSource("m", "python", declared=declared, python=python), CPU)
    assert model.signature.output == TensorSpec("output", "FP32", (2,))


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_a_module_runs_with_its_weights(tmp_path, suffix):
    weights = tmp_path / f"w{suffix}"
    state = {"linear.weight": torch.full((3, 3), 2.0), "linear.bias": torch.ones(3)}
    if suffix == ".pt":
        torch.save(state, weights)
    else:
        save_file(state, weights)
    wanted = source(tmp_path, NET, "Net", weights=str(weights), declared=DECLARED)
    model = backends.load(wanted, CPU)
    np.testing.assert_allclose(
        model.predict([X])[0], np.repeat(2 * X.sum(1, keepdims=True) + 1, 3, 1)
    )
    assert model.signature.parameter_bytes == weights.stat().st_size
    assert torch.get_num_threads() == 1


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_module_is_compiled_once_for_all_batch_sizes(tmp_path):
    wanted = source(tmp_path, NET, "Net", compile=True, declared=DECLARED)
    model = backends.load(wanted, CPU)
    rows = np.random.default_rng(0).random((9, 3), np.float32)
    plain = backends.load(source(tmp_path, NET, "Net", declared=DECLARED), CPU)
    np.testing.assert_allclose(model.predict([rows])[0], plain.predict([rows])[0], rtol=1e-5)
    compiled = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    for count in (3, 4, 5, 6, 7, 8):
        model.predict([rows[:count]])
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == compiled


def test_pickled_weights_are_refused(tmp_path):
    weights = tmp_path / "w.pt"
    torch.save(torch.nn.Linear(3, 3), weights)
    fields = {"weights": str(weights), "declared": DECLARED}
    error = refusal(tmp_path, NET, "Net", **fields)
    assert "w.pt is a pickle of more than tensors" in error
    assert "save module.state_dict()" in error
    torch.save({"other": torch.ones(1)}, weights)
    assert "Missing key(s) in state_dict" in refusal(tmp_path, NET, "Net", **fields)
    torch.save([torch.ones(1)], weights)
    assert "w.pt holds list, not a state dict" in refusal(tmp_path, NET, "Net", **fields)


def test_other_classes_get_the_path_of_their_weights(tmp_path):
    code = """
        import pathlib
        class Model:
            def __init__(self, weights):
                self.add = float(pathlib.Path(weights).read_text())
            def predict(self, x):
                return x + self.add
    """
    (tmp_path / "w.txt").write_text("5")
    wanted = source(tmp_path, code, weights=str(tmp_path / "w.txt"), declared=DECLARED)
    np.testing.assert_array_equal(backends.load(wanted, CPU).predict([X])[0], X + 5)


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (
            "import nothing_like_it",
            "failed: ModuleNotFoundError: No module named 'nothing_like_it'",
        ),
        ("import nothing_like_it", ".py, line 1)"),
        ("def (:", "SyntaxError"),
        ("raise SystemExit('no licence')", "SystemExit: no licence (mine"),
        ("pass", "has no 'Model'"),
        ("Model = 3", "is neither a class nor a function"),
        ("class Model: pass", "Model has no method predict"),
        (
            "class Model:\n  def __init__(self): open('/absent')\n  def predict(self, x): pass",
            "making it failed: FileNotFoundError: [Errno 2] No such file or directory: '/absent'",
        ),
        (
            "class Model:\n  def load(self, device): exit(3)\n  def predict(self, x): pass",
            "load failed: SystemExit: 3 (mine",
        ),
        (
            "class Model:\n  def predict(self, x):\n    return 1 / 0",
            "zeros: ZeroDivisionError: division by zero (mine",
        ),
        (
            "class Model:\n  def predict(self, x): return None",
            "TypeError: predict returned None, not",
        ),
        ("class Model:\n  def predict(self, x): return x[:1]", "its first dimension must be 2"),
        ("class Model:\n  def predict(self, x): return x / 0", "is NaN for an input of zeros"),
        ("class Model:\n  def predict(self, y): pass", "predict has no parameter 'x': it has y"),
        (
            "class Model:\n  def predict(self, x, y): pass",
            "inputs of predict are not described (y)",
        ),
        ("class Model:\n  inputs = 3\n  def predict(self, x): pass", "is not a mapping"),
        (
            "class Model:\n  inputs = {'x': [3]}\n  def predict(self, x): pass",
            "its input 'x' is [3], not a pair of a datatype and a shape, such as (\"FP32\", [3])",
        ),
        (
            "class Model:\n  inputs = {'x': ('float32', [3])}\n  def predict(self, x): pass",
            "; datatypes are BOOL, ",
        ),
        (
            "class Model:\n  output = 'logit'\n  def predict(self, x): return x",
            "says that 'output' is 'logit': it can be logits,",
        ),
        (
            "class Model:\n  labels = 'abc'\n  def predict(self, x): return x",
            "its labels of 'output' are not a list",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_what_is_refused(tmp_path, code, reason):
    assert reason in refusal(tmp_path, code, declared=DECLARED)


def test_what_is_only_for_some_is_refused(tmp_path):
    plain = "class Model:\n  def predict(self, x): return x"
    assert "compile is for torch modules" in refusal(tmp_path, plain, compile=True)
    made = "def Model():\n  return object()"
    assert "weights are for" in refusal(tmp_path, made, weights="w")
    assert "of predict are not described (x, y)" in refusal(
        tmp_path, "class Model:\n  def predict(self, x, y): return x"
    )


def load_switching(tmp_path: Path) -> backends.Model:
    """A model that fails in the way that the first element says, but for zero."""
    code = """
        import numpy as np, torch
        class Model:
            def predict(self, x):
                kind = int(x[0, 0])
                if kind == 1: raise ValueError("bad row")
                if kind == 2: return None
                if kind == 3: return x.astype(str)
                if kind == 4: return {"other": x}
                if kind == 5: raise RuntimeError("CUDA out of memory")
                if kind == 6: return x.astype(complex)
                if kind == 7: return torch.tensor(x, requires_grad=True).bfloat16()
                return x
    """
    return backends.load(source(tmp_path, code, declared=DECLARED), CPU)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (1, r"^ValueError: bad row \(mine\d\.py, line \d\)$"),
        (2, "predict returned None, not an array"),
        (3, "predict returned <U32, not an array of numbers"),
        (4, "LookupError: predict returned other, not output"),
        (6, "predict returned complex128"),
    ],
)
def test_a_prediction_that_is_wrong_is_an_error(tmp_path, kind, reason):
    model = load_switching(tmp_path)
    with pytest.raises(RuntimeError, match=reason):
        model.predict([np.full((1, 3), kind, np.float32)])


def test_out_of_memory_is_known_by_its_message(tmp_path):
    model = load_switching(tmp_path)
    with pytest.raises(MemoryError):
        model.predict([np.full((1, 3), 5, np.float32)])
    seven = np.full((1, 3), 7, np.float32)
    np.testing.assert_array_equal(model.predict([seven])[0], seven)


def test_signals_stay_as_they_are(tmp_path):
    code = """
        import signal
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        class Model:
            def load(self, device):
                signal.signal(signal.SIGINT, signal.SIG_IGN)
            def predict(self, x):
                return x
    """
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    backends.load(source(tmp_path, code, declared=DECLARED), CPU)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_a_missing_package_is_named(tmp_path):
    code = """
        class Model:
            def __init__(self):
                import nothing_like_it
            def predict(self, x):
                return x
    """
    assert "No module named 'nothing_like_it'" in refusal(tmp_path, code, declared=DECLARED)
    adapter = PythonSource(f"{tmp_path}/mine0.py:Model", extra="sklearn", packages=("x",))
    with pytest.raises(ModelError, match=r"needs sklearn: pip install 'ensembled\[sklearn\]'"):
        backends.load(ModelSource("m", "python", "model.skops", python=adapter), CPU)


def test_a_file_finds_the_modules_beside_it(tmp_path):
    (tmp_path / "beside_it.py").write_text("FACTOR = 4\n")
    code = """
        from beside_it import FACTOR
        class Model:
            def predict(self, x):
                return FACTOR * x
    """
    try:
        model = backends.load(source(tmp_path, code, declared=DECLARED), CPU)
        np.testing.assert_array_equal(model.predict([X])[0], 4 * X)
    finally:
        sys.path.remove(str(tmp_path))
        del sys.modules["beside_it"]
