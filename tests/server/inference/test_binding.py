import asyncio
import io
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from arenas import ensemble
from ensembled_client.wire import DTYPES, join_elements
from PIL import Image

from server.engine.memory_budget import MemoryBudget
from server.engine.spec import ServedModel
from server.errors import InvalidRequest, QueueFull, RequestTooLarge
from server.inference import images
from server.inference.binding import bind_images, bind_tensors
from server.inference.images import crop_and_resize, decode_image, preprocess_image
from server.inference.spec import InputSpec, ModelSpec, StoredView
from server.inference.tensors import InputTensor, tensor_from_bytes
from workers.runtime.spec import Preparation, TensorSpec

SERVED = ServedModel(0, 0, ensemble("m", (0,), output=TensorSpec("output", "FP32", ())))
INPUTS = (
    InputSpec(TensorSpec("x", "FP32", (2,)), (StoredView(1, 1),)),
    InputSpec(TensorSpec("n", "INT64", ()), (StoredView(0, 1),)),
)
PLAIN = ModelSpec(SERVED, INPUTS, ("m",))
SMALL, LARGE = Preparation(4), Preparation(6, crop=1.0)
IMAGE = TensorSpec("image", "BYTES", ())
PHOTO = InputSpec(IMAGE, (StoredView(2, 1, SMALL), StoredView(0, 1, LARGE)))
PHOTOS = ModelSpec(SERVED, (PHOTO,), ("m",))
TEXTS = tensor_from_bytes("n", "BYTES", [1], join_elements([b"a"]))


def photo(seed, width=9, height=7, kind="PNG"):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue(), pixels


def x(rows=3, name="x", datatype="FP32", width=2):
    data = np.zeros((rows, width), DTYPES[datatype]).tobytes()
    return tensor_from_bytes(name, datatype, [rows, width], data)


def n(rows=3, name="n"):
    return tensor_from_bytes(name, "INT64", [rows], np.arange(rows).tobytes())


def test_tensors_go_to_their_views_in_any_order():
    for tensors in ([x(), n()], [n(), x()]):
        rows, stored = bind_tensors(PLAIN, tensors)
        assert rows == 3
        assert [(view, rows.tobytes()) for view, rows in stored] == [
            (1, np.zeros((3, 2), np.float32).tobytes()),
            (0, np.arange(3, dtype=np.int64).tobytes()),
        ]


@pytest.mark.parametrize(
    ("tensors", "complaint"),
    [
        ([], r"takes the inputs \['x', 'n'\], the request has \[\]"),
        ([x()], "takes the inputs"),
        ([x(), n(), n(name="more")], "takes the inputs"),
        ([x(), n(name="m")], "takes the inputs"),
        ([x(), x(), n()], "given twice"),
        ([x(datatype="FP64"), n()], "'x' is FP32, the request has FP64"),
        ([x(width=3), n()], r"'x' has shape \[-1, 2\], the request has \[3, 3\]"),
        ([x(), tensor_from_bytes("n", "INT64", [3, 1], bytes(24))], "'n' has shape"),
        ([x(), InputTensor("n", "INT64", [], np.array(3))], "'n' has shape"),
        ([x(), n(2)], "'n' has 2 rows, 'x' 3"),
        ([x(0), n(0)], "'x' has zero rows"),
        (
            [x(), tensor_from_bytes("n", "BYTES", [1], join_elements([b"a"]))],
            "'n' is INT64, .* BYTES",
        ),
    ],
)
def test_tensors_that_do_not_fit_are_refused(tensors, complaint):
    with pytest.raises(InvalidRequest, match=complaint):
        bind_tensors(PLAIN, tensors)


TWO = ModelSpec(
    ServedModel(0, 0, ensemble("e", (0, 1), output=TensorSpec("output", "FP32", ()))),
    (
        InputSpec(TensorSpec("x", "FP32", (2,)), (StoredView(1, 0b01),)),
        InputSpec(TensorSpec("n", "INT64", ()), (StoredView(0, 0b11),)),
        InputSpec(IMAGE, (StoredView(2, 0b10, SMALL), StoredView(3, 0b01, LARGE))),
    ),
    ("first", "second"),
)


def images_of(rows):
    return InputTensor("image", "BYTES", [rows], elements=[photo(0)[0]] * rows)


def test_some_members_need_only_their_own_inputs():
    assert [view for view, _ in bind_tensors(TWO, [x(), n(), images_of(3)])[1]] == [1, 0]
    for tensors in ([n(), images_of(3)], [x(), n(), images_of(3)], [images_of(3), n(), x()]):
        rows, stored = bind_tensors(TWO, tensors, 0b10)
        assert rows == 3
        assert [view for view, _ in stored] == [0], "what the others need is not copied"


@pytest.mark.parametrize(
    ("tensors", "members", "complaint"),
    [
        ([n()], -1, "; 'x' \\(needed by first\\) is missing; 'image' is missing"),
        ([n()], 0b10, r"the request has \['n'\]; 'image' is missing"),
        ([x()], 0b10, "; 'n' is missing; 'image' is missing"),
        ([n(), images_of(3), n(name="m")], 0b10, r"; 'm' is none of them"),
        ([x(2), n(), images_of(3)], 0b10, "'n' has 3 rows, 'x' 2"),
        ([x(), n(), images_of(2)], -1, "'image' has 2 rows, 'x' 3"),
        ([x(width=3), n(), images_of(3)], 0b10, "'x' has shape"),
    ],
)
def test_what_some_members_miss_is_named(tensors, members, complaint):
    with pytest.raises(InvalidRequest, match=complaint):
        bind_tensors(TWO, tensors, members)


def test_an_image_is_prepared_only_for_the_members_that_are_asked():
    with ThreadPoolExecutor(1) as threads:
        for members, views in ((-1, [2, 3]), (0b10, [2]), (0b01, [3])):
            options = {"threads": threads, "max_pixels": 10_000, "budget": MemoryBudget()}
            stored = asyncio.run(bind_images(TWO, [n(), images_of(3)], members, **options))
            assert [view for view, _ in stored] == views


def bind(tensor, max_pixels=10_000, budget=None):
    async def run():
        with ThreadPoolExecutor(2) as threads:
            given = budget or MemoryBudget()
            rows, _ = bind_tensors(PHOTOS, [tensor])
            return rows, await bind_images(
                PHOTOS, [tensor], threads=threads, max_pixels=max_pixels, budget=given
            )

    return asyncio.run(run())


def check_photos(rows, stored, photos):
    assert rows == len(photos)
    assert [view for view, _ in stored] == [2, 0]
    for (_, stored_rows), preparation in zip(stored, (SMALL, LARGE), strict=True):
        wanted = [
            crop_and_resize(decode_image(encoded, 10_000), preparation) for encoded, _ in photos
        ]
        assert stored_rows.tobytes() == np.array(wanted, np.uint8).tobytes()


def test_encoded_photos_are_prepared_once_per_view_and_keep_their_order():
    photos = [photo(seed, width=9 + seed) for seed in range(8)]
    tensor = InputTensor("image", "BYTES", [8], elements=[encoded for encoded, _ in photos])
    check_photos(*bind(tensor), photos)


def test_pixels_are_prepared_like_photos():
    photos = [photo(seed) for seed in range(3)]
    pixels = np.stack([pixels for _, pixels in photos])
    check_photos(*bind(InputTensor("image", "UINT8", pixels.shape, pixels)), photos)


PIXELS = np.zeros((2, 4, 4, 3), np.uint8)


@pytest.mark.parametrize(
    ("tensor", "complaint"),
    [
        (InputTensor("photo", "BYTES", [1], elements=[photo(0)[0]]), "takes the inputs"),
        (InputTensor("image", "BYTES", [0], elements=[]), "zero rows"),
        (InputTensor("image", "BYTES", [], elements=[photo(0)[0]]), "no batch dimension"),
        (InputTensor("image", "BYTES", [1, 2], elements=[photo(0)[0]] * 2), "BYTES"),
        (
            InputTensor("image", "BYTES", [2], elements=[photo(0)[0], b"nonsense"]),
            "image 1: not an",
        ),
        (InputTensor("image", "BYTES", [1], elements=[b""]), "image 0: .*empty"),
        (InputTensor("image", "BYTES", [1], elements=[photo(0)[0][:-30]]), "image 0: .*truncated"),
        (
            InputTensor("image", "BYTES", [1], elements=[photo(0, 200, 100)[0]]),
            "image 0: .*too large",
        ),
        (InputTensor("image", "UINT8", [4, 4, 3], PIXELS[0]), "UINT8"),
        (InputTensor("image", "UINT8", [2, 4, 4, 1], PIXELS[..., :1]), "image 0: "),
        (InputTensor("image", "UINT8", [2, 0, 0, 3], PIXELS[:, :0, :0]), "without pixels"),
        (tensor_from_bytes("image", "UINT8", [2**40, 0, 4, 3], b""), "without pixels"),
        (InputTensor("image", "UINT8", [0, 4, 4, 3], PIXELS[:0]), "zero rows"),
        (InputTensor("image", "FP32", [2, 4, 4, 3], PIXELS.astype(np.float32)), "FP32"),
    ],
)
def test_invalid_images_are_refused(tensor, complaint):
    with pytest.raises(InvalidRequest, match=complaint):
        bind(tensor)


@pytest.mark.parametrize("bad", [{0}, {40, 7, 199}, {999}])
def test_the_first_bad_image_is_named(bad):
    good, _ = photo(0)
    elements = [b"nonsense" if row in bad else good for row in range(1000)]
    with pytest.raises(InvalidRequest, match=f"^image {min(bad)}: "):
        bind(InputTensor("image", "BYTES", [1000], elements=elements))


def test_decoding_stops_at_a_bad_image(monkeypatch):
    decoded = []

    def count(image, *others):
        decoded.append(image)
        return preprocess_image(image, *others)

    monkeypatch.setattr(images, "preprocess_image", count)
    with pytest.raises(InvalidRequest, match="^image 0: .*empty"):
        bind(InputTensor("image", "BYTES", [10_000], elements=[b""] * 10_000))
    assert len(decoded) < 100


ROW_BYTES = (4 * 4 + 6 * 6) * 3


def test_decoded_images_hold_memory_until_they_are_freed():
    tensor = InputTensor("image", "BYTES", [5], elements=[photo(0)[0]] * 5)

    async def run():
        budget = MemoryBudget(8 * ROW_BYTES)
        with ThreadPoolExecutor(2) as threads:
            options = {"threads": threads, "max_pixels": 10_000, "budget": budget}
            stored = await bind_images(PHOTOS, [tensor], **options)
            assert budget.held_bytes == 5 * ROW_BYTES
            with pytest.raises(QueueFull):
                await bind_images(PHOTOS, [tensor], **options)
            bad = InputTensor("image", "BYTES", [1], elements=[b""])
            with pytest.raises(InvalidRequest):
                await bind_images(PHOTOS, [bad], **options)
            del stored
        await asyncio.sleep(0)
        await asyncio.sleep(0)  # what was freed is given back in the loop's next turn
        assert budget.held_bytes == 0

    asyncio.run(run())


def test_images_beyond_the_memory_budget_are_refused():
    tensor = InputTensor("image", "BYTES", [5], elements=[photo(0)[0]] * 5)
    with pytest.raises(RequestTooLarge, match=r"^5 images take 780 bytes"):
        bind(tensor, budget=MemoryBudget(5 * ROW_BYTES - 1))


def test_failed_allocations_hold_no_memory(monkeypatch):
    def empty(*_):
        raise MemoryError("none is left")

    monkeypatch.setattr(images.np, "empty", empty)
    budget = MemoryBudget(100 * ROW_BYTES)
    with pytest.raises(MemoryError):
        bind(InputTensor("image", "BYTES", [1], elements=[photo(0)[0]]), budget=budget)
    assert budget.held_bytes == 0
