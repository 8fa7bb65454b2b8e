"""timm's image classifiers, as directories that timm itself writes, served by transformers."""

import numpy as np
import pytest
import torch

from tests.doors.asking import answers, served

try:
    timm = pytest.importorskip("timm")
except RuntimeError as error:  # torch and torchvision are of different builds
    pytest.skip(f"timm needs a torchvision for this torch: {error}", allow_module_level=True)
pytestmark = pytest.mark.filterwarnings("ignore")

LABELS = ["cat", "dog", "horse"]


@pytest.mark.process
def test_a_member(tmp_path):
    from timm.models import save_for_hf

    torch.manual_seed(0)
    model = timm.create_model("resnet10t", num_classes=len(LABELS)).eval()
    options = {"label_names": LABELS}
    save_for_hf(model, tmp_path / "resnet", model_config=options, safe_serialization=True)
    size = model.pretrained_cfg["input_size"]
    pixels = np.random.default_rng(0).random((2, *size)).astype(np.float32)
    with torch.inference_mode():
        expected = model(torch.from_numpy(pixels)).softmax(-1).numpy()
    members = {"resnet": {"model": {"transformers": str(tmp_path / "resnet")}}}
    with served(members, tmp_path) as server:
        found = answers(server, "resnet", pixels)
        labels = server.client.get("/v2/models/resnet/config").json()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
    assert "horse" in str(labels)
