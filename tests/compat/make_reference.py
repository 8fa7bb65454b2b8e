"""Write held-out digits and what each network says of them, by onnxruntime alone, to a file.

Runs in the project's environment, apart from any server: ``python make_reference.py OUT.npz``.
The file holds `x` FP32 [n, 64], `y` int64 [n], and per member its logits FP32 [n, 10].
"""

import sys

import numpy as np
import onnxruntime

from workers.recipes.digits import NAMES, held_out
from workers.recipes.kitchen import ensure_with_progress

if __name__ == "__main__":
    x, y = held_out()
    logits = {}
    for name, made in ensure_with_progress(NAMES).items():
        session = onnxruntime.InferenceSession(str(made.path), providers=["CPUExecutionProvider"])
        (logits[name.removeprefix("digits_")],) = session.run(None, {"x": x})
    np.savez(sys.argv[1], x=x, y=y, **logits)
