"""Makes a library of small networks that read handwritten digits, for `ensembled select`.

``python examples/digits_library.py DIRECTORY`` writes 35 ONNX files of five kinds, trained on parts
of the digits, some for too short a time, as sweeps leave them behind; ``library.yaml``, which lists
them; ``valid.npz`` to select on and ``test.npz`` to judge on. It takes less than a minute.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent / "models"))

from digits import export, held_out, seen, train

__all__ = ["make_library"]

_EACH = 7


def make_library(directory: Path, each: int = _EACH) -> Path:
    """Train `each` networks of each kind, write all files, and return the library's path."""
    import torch  # noqa: PLC0415
    from digits_networks import EPOCHS, NETWORKS  # noqa: PLC0415

    torch.set_num_threads(1)  # with more of them, these tiny matrices take longer
    directory.mkdir(parents=True, exist_ok=True)
    x, y = seen()
    half = len(x) // 2
    np.savez_compressed(directory / "valid.npz", x=x[half:], y=y[half:])
    test_x, test_y = held_out()
    np.savez_compressed(directory / "test.npz", x=test_x, y=test_y)
    lines = ["# Made by examples/digits_library.py: networks of five kinds.", "members:"]
    for kind, make in NETWORKS.items():
        for number in range(each):
            name = f"{kind}-{number}"
            random = np.random.default_rng([number, len(kind)])
            torch.manual_seed(number)
            rows = random.permutation(half)[: int(half * random.uniform(0.5, 1))]
            network = make()
            train(network, x[rows], y[rows], max(2, EPOCHS[kind] * (number + 1) // each))
            export(network, directory / f"{name}.onnx")
            lines.append(f"  {name}: {{model: {name}.onnx, output: logits}}")
    library = directory / "library.yaml"
    library.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return library


def _main() -> None:
    parser = argparse.ArgumentParser(prog="python examples/digits_library.py")
    parser.add_argument("directory", type=Path, metavar="DIRECTORY")
    print(make_library(parser.parse_args().directory))


if __name__ == "__main__":
    _main()
