"""Write held-out digits and what each network says of them, by onnxruntime alone, to a file.

Runs in the project's environment, apart from any server: ``python make_reference.py OUT.npz``.
The file holds `x` FP32 [n, 64], `y` int64 [n], and per member its logits FP32 [n, 10].
"""

import sys
from pathlib import Path

import numpy as np
import onnxruntime

from workers.builder import build_models_with_progress, find_recipe

sys.path.append(str(Path(__file__).parents[2] / "examples/models"))

from digits import SUMMARIES, held_out

if __name__ == "__main__":
    x, y = held_out()
    logits = {}
    recipes = [find_recipe(f"digits.py:{name}", Path(sys.path[-1])) for name in SUMMARIES]
    for recipe, model in build_models_with_progress(recipes).items():
        session = onnxruntime.InferenceSession(str(model.path), providers=["CPUExecutionProvider"])
        (logits[recipe.name.removeprefix("digits_")],) = session.run(None, {"x": x})
    np.savez(sys.argv[1], x=x, y=y, **logits)
