"""Triton through PyTriton: a front in C++; functions that run all members on what has come.

``python -m benchmarks.peers.servers.pytriton_server``, in PyTriton's environment. It speaks the
Open Inference Protocol with binary tensors.
"""

from __future__ import annotations

import os
import sysconfig
import tempfile
from collections.abc import Callable

import numpy as np
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig

from benchmarks.peers.servers.fused import Fused, Rows
from benchmarks.peers.servers.task import Task

__all__ = ["main"]


def _function(task: Task) -> Callable[..., dict[str, Rows]]:
    members = Fused(task)

    def predict(**inputs: Rows) -> dict[str, Rows]:
        return {"output": members.predict(inputs[task.input])}

    decorated: Callable[..., dict[str, Rows]] = batch(predict)
    return decorated


def main() -> None:
    """Serve until a signal."""
    # Triton's own interpreter must be of the same release as the library it loads modules from.
    found = (sysconfig.get_config_var("LIBDIR"), os.environ.get("LD_LIBRARY_PATH"))
    os.environ["LD_LIBRARY_PATH"] = ":".join(path for path in found if path)
    task = Task.read()
    config = TritonConfig(
        http_address="127.0.0.1",
        http_port=task.port,
        allow_grpc=False,
        allow_metrics=False,
        log_verbose=0,
    )
    with Triton(config=config, workspace=f"{tempfile.gettempdir()}/pytriton") as triton:
        triton.bind(
            model_name=task.model,
            infer_func=[_function(task) for _ in range(task.workers)],
            inputs=[Tensor(name=task.input, dtype=np.float32, shape=task.shape)],
            outputs=[Tensor(name="output", dtype=np.float32, shape=(task.outputs,))],
            config=ModelConfig(
                max_batch_size=task.batch,
                batcher=DynamicBatcher(max_queue_delay_microseconds=1000 * task.wait_ms),
            ),
            strict=False,
        )
        triton.serve()


if __name__ == "__main__":
    main()
