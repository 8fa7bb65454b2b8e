"""The clients against the real server with fake members."""

import asyncio

import numpy as np
import pytest
from ensembled_client import (
    AsyncEnsembleClient,
    DeadlineExceeded,
    EnsembleClient,
    RequestRejected,
    UnknownModel,
)

from benchmarks.server_process import running_server

CONFIG = """
ensembles:
  duo: {members: [low, high], rule: mean}
  stuck: {members: [low, slow], deadline_ms: 0}
members:
  low: {model: fake, fake: {inputs: {x: [4]}, outputs: 2}}
  high: {model: fake, fake: {inputs: {x: [4]}, outputs: 2, add: 10}}
  slow: {model: fake, fake: {inputs: {x: [4]}, outputs: 2, sleep_ms: 200}}
"""


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    config = tmp_path_factory.mktemp("client") / "config.yaml"
    config.write_text(CONFIG)
    with running_server(config) as server:
        yield f"http://{server.address}"


@pytest.mark.process
def test_predict_and_classify(url):
    x = np.arange(12, dtype=np.float32).reshape(3, 4)
    with EnsembleClient(url) as client:
        client.wait_until_ready(30)
        prediction = client.predict("duo", x, timeout=30)
        assert prediction.values.tolist() == (x[:, :2] + 5).tolist()
        assert (prediction.members, prediction.degraded) == (("low", "high"), False)
        assert client.predict("high", x[0]).values.tolist() == [[10, 11]]
        assert client.classify("duo", x[:1], top=1) == [[("1", 6)]]
        assert client.metadata("duo")["inputs"] == [
            {"name": "x", "datatype": "FP32", "shape": [-1, 4]}
        ]


@pytest.mark.process
def test_errors(url):
    with EnsembleClient(url) as client:
        with pytest.raises(UnknownModel, match="unknown model: 'nobody'"):
            client.predict("nobody", [[1]])
        with pytest.raises(RequestRejected, match="shape"):
            client.predict("duo", [[1]])
        with pytest.raises(DeadlineExceeded):
            client.predict("stuck", [[1, 2, 3, 4]], timeout=0.01)


@pytest.mark.process
def test_many_tasks_share_an_async_client(url):
    async def ask_all():
        async with AsyncEnsembleClient(url) as client:
            await client.wait_until_ready(30)
            rows = [np.full((1 + i % 3, 4), i, np.float32) for i in range(40)]
            return rows, await asyncio.gather(*(client.predict("duo", row) for row in rows))

    rows, predictions = asyncio.run(ask_all())
    for row, prediction in zip(rows, predictions, strict=True):
        assert prediction.values.tolist() == (row[:, :2] + 5).tolist()
