"""The recipes of images: what they make is good."""

import importlib.util
from pathlib import Path

import digits
import numpy as np
import onnxruntime
import pytest

from server.inference.images import preprocess_image
from workers.builder import BuiltModel, build_models, find_recipe
from workers.runtime.spec import Preparation

MODELS = Path(__file__).parents[2] / "examples/models"
LITE = {"efficientnet_lite0": 224, "efficientnet_lite1": 240, "efficientnet_lite2": 260}

pytestmark = pytest.mark.slow


def build(file: str, *names: str) -> dict[str, BuiltModel]:
    recipes = [find_recipe(f"{file}.py:{name}", MODELS) for name in names]
    return {recipe.name: model for recipe, model in build_models(recipes).items()}


def session(result: BuiltModel) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(str(result.path), providers=["CPUExecutionProvider"])


def softmax(logits: np.ndarray) -> np.ndarray:
    odds = np.exp(logits - logits.max(1, keepdims=True))
    return odds / odds.sum(1, keepdims=True)


def photos() -> list[Path]:
    spec = importlib.util.find_spec("foolbox")
    if spec is None or spec.origin is None:
        pytest.skip("foolbox, which brings the photos, is not installed")
    return sorted((Path(spec.origin).parent / "data").glob("imagenet_*.jpg"))


def test_digits(capsys: pytest.CaptureFixture[str]) -> None:
    found = digits.accuracies()
    with capsys.disabled():
        print("\n" + ", ".join(f"{name} {accuracy:.2%}" for name, accuracy in found.items()))
    ensemble = found.pop("ensemble")
    assert len(found) == 5
    assert min(found.values()) >= 0.95
    assert ensemble > max(found.values())
    labels = build("digits", "digits_mlp")["digits_mlp"].labels_path
    assert labels is not None
    assert labels.read_text().split() == [str(digit) for digit in range(10)]
    x, y = digits.held_out()
    assert (x.shape, x.dtype, x.min(), x.max(), y.shape) == ((599, 64), np.float32, 0, 16, (599,))


def test_photos() -> None:
    files = photos()
    truth = np.array([int(file.stem.split("_")[2]) for file in files])
    total = np.zeros((len(files), 1000))
    for name, result in build("efficientnet", *LITE).items():
        wanted = [Preparation(LITE[name])]
        pixels = np.stack(
            [preprocess_image(file.read_bytes(), wanted, 50_000_000)[0] for file in files]
        )
        image = ((pixels.astype(np.float32) - 127) / 128).transpose(0, 3, 1, 2)
        (logits,) = session(result).run(None, {"image": np.ascontiguousarray(image)})
        assert (logits.argmax(1) == truth).sum() == 18
        total += softmax(logits)
        assert result.labels_path is not None
        labels = result.labels_path.read_text(encoding="utf-8").splitlines()
        assert (len(labels), labels[0], labels[22]) == (1000, "tench", "bald eagle")
    assert (total.argmax(1) == truth).sum() == 19


def test_networks_for_benchmarks_take_equal_images() -> None:
    names = [f"{name}_224" for name in LITE]
    for result in build("efficientnet", *names).values():
        (logits,) = session(result).run(None, {"image": np.zeros((2, 3, 224, 224), np.float32)})
        assert logits.shape == (2, 1000)
