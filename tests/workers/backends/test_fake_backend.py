"""The fake backend: its answers, and every way in which it fails."""

import subprocess
import sys
import time

import numpy as np
import pytest

from tests.workers.model_files import CPU
from workers import backends
from workers.backends import Model, ModelError
from workers.backends.fake import EXIT_CODE
from workers.runtime.spec import FakeOptions, ModelSource, TensorSpec

ROWS = np.arange(6, dtype=np.float32).reshape(2, 3)


def fake(**options: object) -> Model:
    options = {"inputs": {"x": (3,)}, "outputs": 2} | options
    spec = FakeOptions(**options)  # type: ignore[arg-type]
    return backends.load(ModelSource("m", "fake", fake=spec), CPU)


def test_signature() -> None:
    signature = fake(inputs={"x": (2, 2), "z": ()}, outputs=5).signature
    assert signature.inputs == (TensorSpec("x", "FP32", (2, 2)), TensorSpec("z", "FP32", ()))
    assert signature.output == TensorSpec("output", "FP32", (5,))
    assert signature.parameter_bytes == 0


def test_answers_the_first_input() -> None:
    np.testing.assert_array_equal(fake().predict([ROWS])[0], ROWS[:, :2])
    (longer,) = fake(outputs=7, add=1).predict([ROWS])
    np.testing.assert_array_equal(longer, np.tile(ROWS, 3)[:, :7] + 1)
    assert longer.dtype == np.float32


def test_sleeps() -> None:
    start = time.monotonic()
    fake(sleep_ms=20).predict([ROWS])
    assert time.monotonic() - start >= 0.02


@pytest.mark.parametrize("options", [{"outputs": 0}, {"inputs": {}}, {"inputs": {"x": (0,)}}])
def test_refuses_odd_options(options: dict[str, object]) -> None:
    with pytest.raises(ModelError, match=r"^member m: "):
        fake(**options)


@pytest.mark.parametrize(("fail", "expected"), [("raise", RuntimeError), ("alloc", MemoryError)])
def test_raises_once_armed(fail: str, expected: type[Exception]) -> None:
    model = fake(fail=fail)
    model.predict([ROWS])
    model.arm()
    with pytest.raises(expected):
        model.predict([ROWS])
    chosen = fake(fail=fail, fail_value=3.0)
    chosen.arm()
    chosen.predict([ROWS[:1]])
    with pytest.raises(expected):
        chosen.predict([ROWS])


def test_answers_nan() -> None:
    model = fake(fail="nan")
    assert not np.isnan(model.predict([ROWS])[0]).any()
    model.arm()
    assert np.isnan(model.predict([ROWS])[0]).all()
    chosen = fake(fail="nan", fail_value=3.0)
    chosen.arm()
    (answer,) = chosen.predict([ROWS])
    np.testing.assert_array_equal(answer[0], ROWS[0, :2])
    assert np.isnan(answer[1]).all()


def serve(fail: str) -> subprocess.Popen[bytes]:
    """Start a child whose fake member answers 1, then is asked for 2, at which it fails."""
    code = (
        "import numpy as np\n"
        "from workers.backends.fake import FakeModel\n"
        "from workers.runtime.spec import FakeOptions, ModelSource\n"
        f"options = FakeOptions({{'x': (1,)}}, 1, fail={fail!r}, fail_value=2.0)\n"
        "model = FakeModel(ModelSource('m', 'fake', fake=options))\n"
        "model.predict([np.full((1, 1), 2, np.float32)])\n"
        "model.arm()\n"
        "model.predict([np.full((1, 1), 1, np.float32)])\n"
        "print('alive', flush=True)\n"
        "model.predict([np.full((1, 1), 2, np.float32)])\n"
        "print('not reached', flush=True)\n"
    )
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)


def test_exits() -> None:
    child = serve("exit")
    assert child.communicate() == (b"alive\n", None)
    assert child.returncode == EXIT_CODE


def test_hangs() -> None:
    with serve("hang") as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"alive\n"
        with pytest.raises(subprocess.TimeoutExpired):
            child.wait(0.1)
        child.kill()
        assert child.stdout.read() == b""


def test_the_package_imports_no_runtime() -> None:
    code = (
        "import sys, workers.backends, workers.backends.inspection, workers.builder\n"
        "import server.inference.images\n"
        "print(sorted({'torch', 'onnxruntime', 'onnx', 'sklearn'} & set(sys.modules)))"
    )
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert child.stdout == b"[]\n"
