"""Five small networks of different kinds that read handwritten digits, trained in seconds.

Runs in a child of `workers.recipes.kitchen`; ``python -m workers.recipes.digits`` prints how good
they are, and with ``--data DIRECTORY`` writes digits to calibrate with. They take ``x``, FP32
[n, 64]: the pixels 0 to 16 of an 8 x 8 image; and answer ``logits``, FP32 [n, 10]. Seeds and the
split are fixed, and a third of the images is held out.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from workers.recipes.registry import RECIPES

if TYPE_CHECKING:
    import torch

__all__ = ["NAMES", "accuracies", "held_out", "make"]

Images = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]

#: The recipes of this module, the members of the ensemble `digits`.
NAMES = tuple(name for name in RECIPES if name.startswith("digits_"))

_SEED = 0
_BATCH_ROWS = 64


def held_out() -> tuple[Images, Labels]:
    """Return the third of the images that no network has seen: x [n, 64] and labels [n]."""
    x, y = _shuffled()
    return x[: len(x) // 3], y[: len(y) // 3]


def make(names: Sequence[str], directory: Path, report: Callable[[str, str], None]) -> None:
    """Train and export the named networks, and write their labels, into a directory."""
    import torch  # noqa: PLC0415

    from workers.recipes.digits_networks import EPOCHS, NETWORKS  # noqa: PLC0415

    # With more threads these tiny matrices take longer, and sums depend on their number.
    torch.set_num_threads(1)
    x, y = _shuffled()
    x, y = x[len(x) // 3 :], y[len(y) // 3 :]
    for name in names:
        kind = name.removeprefix("digits_")
        report(name, "training")
        torch.manual_seed(_SEED)
        network = NETWORKS[kind]()
        _train(network, torch.from_numpy(x), torch.from_numpy(y), EPOCHS[kind])
        report(name, "exporting")
        torch.onnx.export(
            network,
            (torch.zeros(1, 64),),
            str(directory / RECIPES[name].file_name),
            input_names=["x"],
            output_names=["logits"],
            dynamic_axes={"x": {0: "n"}, "logits": {0: "n"}},
            dynamo=False,
        )
    labels = "\n".join(str(digit) for digit in range(10)) + "\n"
    (directory / RECIPES[names[0]].labels_name).write_text(labels, encoding="utf-8")


def accuracies() -> dict[str, float]:
    """Return the share of held-out digits that each member reads right, and that their mean does.

    Makes the networks if they are missing. The mean of the members' softmaxes is ``ensemble``.

    Raises:
        RecipeError: if the networks can't be made.
    """
    import onnxruntime  # noqa: PLC0415

    from workers.recipes.kitchen import ensure_with_progress  # noqa: PLC0415

    x, y = held_out()
    found = {}
    total = np.zeros((len(x), 10))
    for name, result in ensure_with_progress(NAMES).items():
        session = onnxruntime.InferenceSession(str(result.path), providers=["CPUExecutionProvider"])
        (logits,) = session.run(None, {"x": x})
        found[name] = float((logits.argmax(1) == y).mean())
        odds = np.exp(logits - logits.max(1, keepdims=True))
        total += odds / odds.sum(1, keepdims=True)
    found["ensemble"] = float((total.argmax(1) == y).mean())
    return found


def _shuffled() -> tuple[Images, Labels]:
    """Return all digits of scikit-learn in a fixed random order."""
    data = importlib.import_module("sklearn.datasets").load_digits()
    order = np.random.default_rng(_SEED).permutation(len(data.target))
    return data.data[order].astype(np.float32), data.target[order].astype(np.int64)


def _train(network: torch.nn.Module, x: torch.Tensor, y: torch.Tensor, epochs: int) -> None:
    """Train a network by Adam with one cycle of the learning rate, and leave it in eval mode."""
    import torch  # noqa: PLC0415

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
        what = RECIPES[name].summary if name in RECIPES else "mean of the members' softmaxes"
        table.add_row(name, what, f"{accuracy:.2%}", style=None if name in RECIPES else "bold")
    Console().print(table)


def _main() -> None:
    import argparse  # noqa: PLC0415

    from workers.recipes.digits_data import write_data  # noqa: PLC0415

    parser = argparse.ArgumentParser(prog="python -m workers.recipes.digits")
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
