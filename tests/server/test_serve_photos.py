"""Labelled photos through HTTP, in every form that clients send them in."""

import importlib.util
import io
import json
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from ensembled_client.wire import join_elements
from PIL import Image
from serving import Answer, running

pytestmark = [pytest.mark.process, pytest.mark.slow]

IMAGENET = Path(__file__).parents[2] / "configs/imagenet.yaml"
MEMBERS = ["lite0", "lite1", "lite2"]
CLASS = re.compile(r"(?P<score>[01]\.\d+):(?P<index>\d+):(?P<label>.+)")


def find_photos():
    """The twenty photos that foolbox carries (found without importing it), with their labels."""
    spec = importlib.util.find_spec("foolbox")
    assert spec is not None
    assert spec.origin is not None
    paths = sorted((Path(spec.origin).parent / "data").glob("imagenet_*.jpg"))
    return [(path.read_bytes(), int(path.stem.split("_")[2])) for path in paths]


PHOTOS = find_photos()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with running(IMAGENET, tmp_path_factory.mktemp("imagenet")) as server:
        yield server


def classify(server, model, images, *, outputs=None, shape=None):
    """Encoded photos as a BYTES tensor, everything in binary."""
    raw = join_elements(images)
    tensor = {
        "name": "image",
        "shape": shape or [len(images)],
        "datatype": "BYTES",
        "parameters": {"binary_data_size": len(raw)},
    }
    document = {"inputs": [tensor], "parameters": {"binary_data_output": True}}
    if outputs is not None:
        document["outputs"] = outputs
    header = json.dumps(document).encode()
    return server.client.post(
        f"/v2/models/{model}/infer",
        header + raw,
        {"Inference-Header-Content-Length": str(len(header))},
    )


def test_twenty_photos(server):
    images = [image for image, _ in PHOTOS]
    labels = np.array([label for _, label in PHOTOS])
    assert len(images) == 20
    answers = {model: classify(server, model, images).values for model in [*MEMBERS, "imagenet"]}
    right = {model: int((one.argmax(axis=1) == labels).sum()) for model, one in answers.items()}
    print("\n" + ", ".join(f"{model} {count}/20" for model, count in right.items()))
    assert right == {"lite0": 18, "lite1": 18, "lite2": 18, "imagenet": 19}
    mean = np.mean([answers[member] for member in MEMBERS], axis=0)
    np.testing.assert_allclose(answers["imagenet"], mean, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(answers["imagenet"].sum(axis=1), 1.0, rtol=1e-4)


def post_image(server, body, path="/v2/models/imagenet/infer", kind="image/jpeg"):
    return server.client.post(path, body, {"Content-Type": kind})


def test_a_photo_as_the_body(server):
    image, label = PHOTOS[0]
    wanted = classify(server, "imagenet", [image]).values
    answer = post_image(server, image)
    np.testing.assert_allclose(answer.values, wanted, rtol=1e-4, atol=1e-6)
    assert answer.values.argmax() == label
    assert answer.members == MEMBERS


def check_classes(texts, values, count):
    assert len(texts) == count
    scores = []
    for text in texts:
        match = CLASS.fullmatch(text)
        assert match, text
        assert float(match["score"]) == pytest.approx(values[int(match["index"])], abs=2e-6)
        scores.append(float(match["score"]))
    assert scores == sorted(scores, reverse=True)
    assert int(CLASS.fullmatch(texts[0])["index"]) == values.argmax()


def test_the_best_classes_of_a_photo_as_the_body(server):
    image, _ = PHOTOS[0]
    values = classify(server, "imagenet", [image]).values[0]
    answer = post_image(server, image, "/v2/models/imagenet/infer?classification=5")
    (output,) = answer.json["outputs"]
    assert (output["name"], output["datatype"], output["shape"]) == ("output", "BYTES", [1, 5])
    check_classes(output["data"], values, 5)


def test_the_best_classes_by_a_parameter_of_the_output(server):
    images = [image for image, _ in PHOTOS[:3]]
    values = classify(server, "imagenet", images).values
    outputs = [{"name": "output", "parameters": {"classification": 2, "binary_data": False}}]
    (output,) = classify(server, "imagenet", images, outputs=outputs).json["outputs"]
    assert (output["datatype"], output["shape"]) == ("BYTES", [3, 2])
    for row in range(3):
        check_classes(output["data"][2 * row : 2 * row + 2], values[row], 2)


def test_pixels_of_any_size(server):
    opened = [Image.open(io.BytesIO(image)).convert("RGB") for image, _ in PHOTOS[:2]]
    pixels = np.stack([np.asarray(photo.resize((300, 260))) for photo in opened])
    tensor = {
        "name": "image",
        "shape": list(pixels.shape),
        "datatype": "UINT8",
        "parameters": {"binary_data_size": pixels.nbytes},
    }
    header = json.dumps({"inputs": [tensor]}).encode()
    answer = server.client.post(
        "/v2/models/imagenet/infer",
        header + pixels.tobytes(),
        {"Inference-Header-Content-Length": str(len(header))},
    )
    pngs = []
    for photo in pixels:
        file = io.BytesIO()
        Image.fromarray(photo).save(file, "PNG")
        pngs.append(file.getvalue())
    np.testing.assert_allclose(
        answer.values, classify(server, "imagenet", pngs).values, rtol=1e-3, atol=1e-5
    )


def encoded(kind, mode="RGB", size=(1, 1)):
    file = io.BytesIO()
    Image.new(mode, size).save(file, kind)
    return file.getvalue()


def test_images_that_can_not_be_used_are_named(server):
    good = PHOTOS[0][0]
    for bad in (
        b"",
        b"nonsense",
        good[:1000],
        good[:-2000],
        b"\x89PNG\r\n\x1a\n",
        b"GIF89a",
        b"<svg/>",
    ):
        answer = classify(server, "imagenet", [good, bad, good])
        assert answer.status == 400, bad[:20]
        assert answer.error.startswith("image 1: ")
        assert post_image(server, bad).status == 400
    answer = classify(server, "imagenet", [good, good], shape=[3])
    assert answer.status == 400
    answer = classify(server, "imagenet", [good, good], shape=[1, 2])
    assert answer.status == 400
    answer = classify(server, "imagenet", [encoded("PNG", "L", (20_000, 20_000))])
    assert (answer.status, "too large" in answer.error) == (400, True)
    answer = post_image(server, good, "/v2/models/imagenet/infer?classification=many")
    assert answer.status == 400
    assert classify(server, "imagenet", [good]).status == 200


@pytest.mark.parametrize(
    "image",
    [encoded("PNG"), encoded("JPEG", "CMYK", (30, 40)), encoded("PNG", "I;16", (20, 20))],
    ids=["one pixel", "cmyk", "16 bits"],
)
def test_unusual_images_are_answered(server, image):
    assert classify(server, "imagenet", [image]).values.shape == (1, 1000)


def test_many_photos_at_once_do_not_get_mixed_up(server):
    wanted = classify(server, "imagenet", [image for image, _ in PHOTOS[:6]]).values

    def ask(i):
        import httpx

        response = httpx.post(
            f"{server.url}/v2/models/imagenet/infer",
            content=PHOTOS[i % 6][0],
            headers={"Content-Type": "image/jpeg"},
            timeout=60,
            trust_env=False,
        )
        np.testing.assert_allclose(Answer(response).values[0], wanted[i % 6], rtol=1e-3, atol=1e-5)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(ask, range(18)))


def test_metadata(server):
    metadata = server.client.get("/v2/models/imagenet").json()
    assert metadata["inputs"] == [{"name": "image", "datatype": "BYTES", "shape": [-1]}]
    assert metadata["outputs"] == [{"name": "output", "datatype": "FP32", "shape": [-1, 1000]}]
