"""A first look at the client, against a running server.

    make serve                                    # in one terminal, once ready
    python examples/quickstart.py photo.jpg

    ensembled serve configs/digits.yaml           # another server: handwritten digits
    python examples/quickstart.py --ensemble digits

An ensemble that takes images is shown those that are named; any other gets rows of random numbers,
and so do those that take images if none is named: its answer is nonsense then, and unsure.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
from ensembled_client import DeadlineExceeded, Ensemble, EnsembleClient, Prediction

_ROWS = 2
_TIMEOUT_S = 30.0


def main() -> None:
    """Send requests, and print what comes back."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("images", nargs="*", help="paths of images")
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="or grpc://127.0.0.1:8001")
    parser.add_argument("--ensemble", default="imagenet")
    arguments = parser.parse_args()

    with EnsembleClient(arguments.url) as client:
        client.wait_until_ready(60)
        print("models:", ", ".join(model.name for model in client.models() if model.is_ready))

        ensemble = client.ensemble(arguments.ensemble)
        x = arguments.images or random_rows(ensemble)
        prediction = ensemble.predict(x, timeout=_TIMEOUT_S, uncertainty=True, member_outputs=True)
        show(prediction)

        # One member alone, and what happens if there is no time.
        first = prediction.members[0]
        alone = ensemble.predict(x, members=[first], quorum=1)
        print(f"{first} alone: {alone.top(1)}")
        try:
            ensemble.predict(x, timeout=1e-6)
        except DeadlineExceeded as error:
            print("a microsecond is not enough:", error.message)


def random_rows(ensemble: Ensemble) -> dict[str, Any]:
    """Return a few rows for each input of an ensemble; sizes that are free become 32."""
    generator = np.random.default_rng(0)
    rows: dict[str, Any] = {}
    for tensor in ensemble.metadata()["inputs"]:
        if tensor["datatype"] == "BYTES":
            rows[tensor["name"]] = generator.integers(0, 256, (_ROWS, 64, 64, 3), np.uint8)
        else:
            shape = [32 if size < 0 else size for size in tensor["shape"][1:]]
            rows[tensor["name"]] = generator.integers(0, 17, (_ROWS, *shape))
    return rows


def show(prediction: Prediction) -> None:
    """Print a prediction."""
    print(prediction)
    for row, best in enumerate(prediction.top(3)):
        print(f"row {row}:", ", ".join(f"{label} {value:.3f}" for label, value in best))
        for name, scores in prediction.uncertainty.items():
            print(f"    {name:18} {scores[row]:.3g}")
        for member, values in prediction.member_values.items():
            print(f"    {member:18} would say class {values[row].argmax()}")


if __name__ == "__main__":
    main()
