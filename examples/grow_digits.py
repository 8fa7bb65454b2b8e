"""Grows a library of small networks that classify images: handwritten digits, or your own.

    python examples/grow_digits.py data       # writes data/valid.npz and data/test.npz
    ensembled grow examples/grow_digits.py:train --library digits --trials 60 --data data/valid.npz
    ensembled select digits --data data/valid.npz --test data/test.npz

`space` says what is tried, `train` trains one network; docs/growing.md explains both. Without more,
the images are scikit-learn's digits, 8 x 8. Others, such as Fashion-MNIST, come from an .npz file
with x, UINT8 [n, 28, 28] or any other size, and the classes y, whole numbers [n]:

    python examples/grow_digits.py data --images fashion.npz
    ensembled grow examples/grow_digits.py:train --set images=fashion.npz ...

Every network takes x, FP32 [n, height, width], the pixels as they are, and returns logits.
"""

from __future__ import annotations

import argparse
import importlib
import itertools
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import optuna
    import torch

    from server.growth.training import Run

__all__ = ["Data", "load_images", "space", "split", "train", "write_data"]

Images = npt.NDArray[np.float32]
Classes = npt.NDArray[np.int64]
#: Images and their classes.
Data = tuple[Images, Classes]

_SEED = 0
#: Of the images, a fifth is for validation, and as many for the test.
_HELD = 5
_MIN_SIDE = 8


def space(trial: optuna.Trial) -> dict[str, Any]:
    """Choose the configuration of a trial; what is chosen may depend on what was chosen before."""
    config: dict[str, Any] = {
        "kind": trial.suggest_categorical("kind", ["mlp", "cnn"]),
        "width": trial.suggest_int("width", 8, 128, log=True),
        "depth": trial.suggest_int("depth", 1, 3),
        "dropout": trial.suggest_float("dropout", 0.0, 0.5),
        "learning_rate": trial.suggest_float("learning_rate", 1e-4, 3e-2, log=True),
        "batch": trial.suggest_categorical("batch", [16, 32, 64, 128]),
    }
    if config["kind"] == "cnn":
        config["kernel"] = trial.suggest_categorical("kernel", [3, 5])
    return config


def train(config: Mapping[str, Any], run: Run) -> Generator[float, None, dict[str, Any]]:
    """Train a network; yield its accuracy on validation rows after each pass over the data."""
    import torch  # noqa: PLC0415

    torch.set_num_threads(run.cores)
    torch.manual_seed(run.seed)
    x, y = load_images(config.get("images"))
    training, valid, _ = split(x, y)
    network = _network(config, x.shape[1:], classes=int(y.max()) + 1).to(run.device)
    optimizer = torch.optim.Adam(network.parameters(), config["learning_rate"])
    for _ in range(run.budget):
        _pass(network, optimizer, training, config["batch"], run.device)
        yield _accuracy(network, valid, run.device)
    return {"model": _export(network.cpu(), x.shape[1:], run.directory), "output": "logits"}


def load_images(path: str | None = None) -> Data:
    """Return the images of a file, or scikit-learn's digits: x FP32 [n, height, width], y [n].

    Raises:
        ValueError: if the file does not hold such images and their classes.
    """
    if path is None:
        bunch = importlib.import_module("sklearn.datasets").load_digits()
        return bunch.images.astype(np.float32), bunch.target.astype(np.int64)
    with np.load(path, allow_pickle=False) as held:
        if not {"x", "y"} <= set(held.files):
            raise ValueError(f"{path} should hold x and y, it has {', '.join(held.files)}")
        x, y = held["x"], held["y"]
    if x.ndim != 3 or min(x.shape[1:]) < _MIN_SIDE or x.dtype != np.uint8:
        raise ValueError(
            f"{path}: x should be UINT8 [n, height, width] of {_MIN_SIDE} pixels at least, such as "
            f"[70000, 28, 28], not {x.dtype} {list(x.shape)}"
        )
    if y.shape != (len(x),) or y.dtype.kind not in "iu" or len(x) == 0 or y.min() < 0:
        raise ValueError(
            f"{path}: y should be the class of each image, whole numbers from 0, [{len(x)}], not "
            f"{y.dtype} {list(y.shape)}"
        )
    return x.astype(np.float32), y.astype(np.int64)


def split(x: Images, y: Classes) -> tuple[Data, Data, Data]:
    """Split images into those for training, for validation, and for the test, always the same."""
    order = np.random.default_rng(_SEED).permutation(len(x))
    held = len(x) // _HELD
    valid, test, training = order[:held], order[held : 2 * held], order[2 * held :]
    return (x[training], y[training]), (x[valid], y[valid]), (x[test], y[test])


def write_data(directory: Path, images: str | None = None) -> list[Path]:
    """Write the images for validation and for the test, as `ensembled select` reads them."""
    _, valid, test = split(*load_images(images))
    directory.mkdir(parents=True, exist_ok=True)
    paths = [directory / "valid.npz", directory / "test.npz"]
    for path, (x, y) in zip(paths, (valid, test), strict=True):
        np.savez_compressed(path, x=x, y=y)
    return paths


def _network(config: Mapping[str, Any], shape: tuple[int, ...], classes: int) -> torch.nn.Module:
    """Return an untrained network; its first layer learns how bright the images are."""
    from torch import nn  # noqa: PLC0415

    height, width = shape
    layers: list[nn.Module] = [nn.Unflatten(1, (1, height)), nn.BatchNorm2d(1)]
    if config["kind"] == "mlp":
        sizes = [height * width, *[config["width"]] * config["depth"]]
        layers.append(nn.Flatten())
        for before, after in itertools.pairwise(sizes):
            layers += [nn.Linear(before, after), nn.ReLU(), nn.Dropout(config["dropout"])]
        return nn.Sequential(*layers, nn.Linear(sizes[-1], classes))
    channels = [1, *(config["width"] // 2 * 2**level for level in range(config["depth"]))]
    for before, after in itertools.pairwise(channels):
        padding = config["kernel"] // 2
        layers += [nn.Conv2d(before, after, config["kernel"], padding=padding), nn.ReLU()]
        layers.append(nn.MaxPool2d(2))
    side = (height >> config["depth"]) * (width >> config["depth"])
    layers += [nn.Flatten(), nn.Dropout(config["dropout"])]
    return nn.Sequential(*layers, nn.Linear(channels[-1] * side, classes))


def _pass(
    network: torch.nn.Module, optimizer: torch.optim.Optimizer, data: Data, batch: int, device: str
) -> None:
    """Train on all rows once, in a new order."""
    import torch  # noqa: PLC0415

    network.train()
    x, y = torch.from_numpy(data[0]), torch.from_numpy(data[1])
    order = torch.randperm(len(x))
    for start in range(0, len(x), batch):
        rows = order[start : start + batch]
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(network(x[rows].to(device)), y[rows].to(device))
        torch.autograd.backward(loss)
        optimizer.step()


def _accuracy(network: torch.nn.Module, data: Data, device: str) -> float:
    import torch  # noqa: PLC0415

    network.eval()
    right, (x, y) = 0, data
    with torch.no_grad():
        for start in range(0, len(x), 1024):
            logits = network(torch.from_numpy(x[start : start + 1024]).to(device))
            right += int((logits.argmax(1).cpu().numpy() == y[start : start + 1024]).sum())
    return right / len(x)


def _export(network: torch.nn.Module, shape: tuple[int, ...], directory: Path) -> Path:
    import torch  # noqa: PLC0415

    network.eval()
    path = directory / "model.onnx"
    torch.onnx.export(
        network,
        (torch.zeros(1, *shape),),
        str(path),
        input_names=["x"],
        output_names=["logits"],
        dynamic_axes={"x": {0: "n"}, "logits": {0: "n"}},
        dynamo=False,
    )
    return path


def main() -> None:
    """Write the data for `grow` and `select`."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("directory", type=Path, help="where valid.npz and test.npz go to")
    parser.add_argument("--images", help="an .npz file of your own")
    arguments = parser.parse_args()
    print(*write_data(arguments.directory, arguments.images))


if __name__ == "__main__":
    main()
