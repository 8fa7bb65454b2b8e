"""Recipes of five small networks of different kinds that read handwritten digits.

They are trained in seconds. ``python examples/models/digits.py`` prints how good they are, and with
``--data DIRECTORY`` writes digits to calibrate with (`digits_data`). They take ``x``, FP32 [n, 64]:
the pixels 0 to 16 of an 8 x 8 image; and return ``logits``, FP32 [n, 10]. Seeds and the split are
fixed, and a third of the images is held out.
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from digits_data import write_data

if TYPE_CHECKING:
    import torch

__all__ = [
    "SUMMARIES",
    "accuracies",
    "digits_attention",
    "digits_cnn",
    "digits_deep",
    "digits_mlp",
    "digits_residual",
    "export",
    "held_out",
    "seen",
    "train",
]

Images = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]

#: What each of the recipes makes; they are the members of the ensemble `digits`.
SUMMARIES = {
    "digits_mlp": "a wide perceptron",
    "digits_deep": "a deep, narrow perceptron with tanh",
    "digits_cnn": "a convolutional network",
    "digits_residual": "a residual perceptron",
    "digits_attention": "attention over the rows of the image",
}

_SEED = 0
_BATCH_ROWS = 64


def held_out() -> tuple[Images, Labels]:
    """Return the third of the images that no network has seen: x [n, 64] and labels [n]."""
    x, y = _shuffled()
    return x[: len(x) // 3], y[: len(y) // 3]


def seen() -> tuple[Images, Labels]:
    """Return the other two thirds, which the networks learn from."""
    x, y = _shuffled()
    return x[len(x) // 3 :], y[len(y) // 3 :]


def _build(kind: str, path: Path, report: Callable[[str], None]) -> list[str]:
    """Train and export a network; return the names of its classes."""
    import torch  # noqa: PLC0415
    from digits_networks import EPOCHS, NETWORKS  # noqa: PLC0415

    # With more threads these tiny matrices take longer, and sums depend on their number.
    torch.set_num_threads(1)
    report("training")
    torch.manual_seed(_SEED)
    network = NETWORKS[kind]()
    train(network, *seen(), EPOCHS[kind])
    report("exporting")
    export(network, path)
    return [str(digit) for digit in range(10)]


def export(network: torch.nn.Module, path: Path) -> None:
    """Write a network as ONNX, from ``x`` [n, 64] to ``logits`` [n, 10]."""
    import torch  # noqa: PLC0415

    torch.onnx.export(
        network,
        (torch.zeros(1, 64),),
        str(path),
        input_names=["x"],
        output_names=["logits"],
        dynamic_axes={"x": {0: "n"}, "logits": {0: "n"}},
        dynamo=False,
    )


digits_mlp, digits_deep, digits_cnn, digits_residual, digits_attention = (
    partial(_build, name.removeprefix("digits_")) for name in SUMMARIES
)


def accuracies() -> dict[str, float]:
    """Return the share of held-out digits that each member reads right, and that their mean does.

    Makes the networks if they are missing. The mean of the members' softmaxes is ``ensemble``.

    Raises:
        RecipeError: if the networks can't be made.
    """
    import onnxruntime  # noqa: PLC0415

    from workers.builder import build_models_with_progress, find_recipe  # noqa: PLC0415

    x, y = held_out()
    found = {}
    total = np.zeros((len(x), 10))
    recipes = [find_recipe(f"{__file__}:{name}", Path()) for name in SUMMARIES]
    for recipe, model in build_models_with_progress(recipes).items():
        session = onnxruntime.InferenceSession(str(model.path), providers=["CPUExecutionProvider"])
        (logits,) = session.run(None, {"x": x})
        found[recipe.name] = float((logits.argmax(1) == y).mean())
        odds = np.exp(logits - logits.max(1, keepdims=True))
        total += odds / odds.sum(1, keepdims=True)
    found["ensemble"] = float((total.argmax(1) == y).mean())
    return found


def _shuffled() -> tuple[Images, Labels]:
    """Return all digits of scikit-learn in a fixed random order."""
    data = importlib.import_module("sklearn.datasets").load_digits()
    order = np.random.default_rng(_SEED).permutation(len(data.target))
    return data.data[order].astype(np.float32), data.target[order].astype(np.int64)


def train(network: torch.nn.Module, images: Images, labels: Labels, epochs: int) -> None:
    """Train a network by Adam with one cycle of the learning rate, and leave it in eval mode."""
    import torch  # noqa: PLC0415

    x, y = torch.from_numpy(images), torch.from_numpy(labels)
    batches = -(-len(x) // _BATCH_ROWS)
    adam = torch.optim.Adam(network.parameters(), weight_decay=1e-5)
    cycle = torch.optim.lr_scheduler.OneCycleLR(adam, 0.01, total_steps=epochs * batches)
    network.train()
    for _ in range(epochs):
        order = torch.randperm(len(x))
        for start in range(0, len(x), _BATCH_ROWS):
            rows = order[start : start + _BATCH_ROWS]
            adam.zero_grad()
            loss = torch.nn.functional.cross_entropy(network(x[rows]), y[rows])
            torch.autograd.backward(loss)
            adam.step()
            cycle.step()
    network.eval()


def _print_accuracies() -> None:
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    table = Table("member", "network", "held-out accuracy", title="Handwritten digits")
    for name, accuracy in accuracies().items():
        what = SUMMARIES.get(name, "mean of the members' softmaxes")
        table.add_row(name, what, f"{accuracy:.2%}", style=None if name in SUMMARIES else "bold")
    Console().print(table)


def _main() -> None:
    parser = argparse.ArgumentParser(prog="python examples/models/digits.py")
    parser.add_argument(
        "--data",
        type=Path,
        metavar="DIRECTORY",
        help="write the held-out digits, and inputs that are none, for `ensembled calibrate`",
    )
    directory = parser.parse_args().data
    if directory is None:
        _print_accuracies()
        return
    for path in write_data(directory, *held_out()):
        print(path)


if __name__ == "__main__":
    _main()
