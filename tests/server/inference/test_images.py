"""Preparation: every kind of image that clients send, good and bad."""

import contextlib
import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from server.inference.images import ImageError, crop_and_resize, decode_image, preprocess_image
from workers.runtime.spec import Preparation

RED = (254, 0, 0)
MAX_PIXELS = 50_000_000


def decode(data, max_pixels=MAX_PIXELS):
    return decode_image(data, max_pixels)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def noise(width: int = 60, height: int = 40) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(pixels)


def colour(data: bytes) -> tuple[int, ...]:
    """Return the colour of the middle pixel."""
    image = decode(data)
    assert image.mode == "RGB"
    pixel = image.getpixel((image.width // 2, image.height // 2))
    assert isinstance(pixel, tuple)
    return pixel


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF"])
def test_formats(kind: str) -> None:
    data = encoded(Image.new("RGB", (20, 10), RED), kind)
    np.testing.assert_allclose(colour(data), RED, atol=3)
    np.testing.assert_allclose(np.asarray(decode(memoryview(data))), np.asarray(decode(data)))


def test_modes() -> None:
    cmyk = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    np.testing.assert_allclose(colour(encoded(cmyk, "JPEG")), (255, 0, 0), atol=3)
    np.testing.assert_allclose(colour(encoded(cmyk, "TIFF")), (255, 0, 0), atol=3)
    assert colour(encoded(Image.new("RGB", (8, 8), RED).quantize(4))) == RED
    assert colour(encoded(Image.new("L", (8, 8), 77))) == (77, 77, 77)
    assert colour(encoded(Image.new("1", (8, 8), 1))) == (255, 255, 255)


def test_sixteen_bits_keep_their_upper_eight() -> None:
    grey = Image.fromarray(np.full((8, 8), 0x80FF, np.uint16))
    assert colour(encoded(grey)) == (128, 128, 128)
    assert colour(encoded(grey, "TIFF")) == (128, 128, 128)
    header = struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0)
    row = zlib.compress(b"\0" + struct.pack(">HHH", 0x80FF, 0x40FF, 0))
    chunks = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in ((b"IHDR", header), (b"IDAT", row), (b"IEND", b""))
    )
    assert colour(b"\x89PNG\r\n\x1a\n" + chunks) == (128, 64, 0)


def test_transparency_lies_over_white() -> None:
    assert colour(encoded(Image.new("RGBA", (8, 8), (0, 0, 0, 0)))) == (255, 255, 255)
    assert colour(encoded(Image.new("RGBA", (8, 8), (0, 0, 0, 255)))) == (0, 0, 0)
    assert colour(encoded(Image.new("LA", (8, 8), (0, 0)))) == (255, 255, 255)
    palette = Image.new("P", (8, 8), 0)
    palette.putpalette([*RED, 0, 0, 0])
    assert colour(encoded(palette, transparency=0)) == (255, 255, 255)


@pytest.mark.parametrize("size", [(1000, 700), (700_000, 1), (1, 300_000)])
@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_large_transparent_images_are_laid_over_white_piece_by_piece(
    size: tuple[int, int], mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 4), np.uint8)
    whole = Image.fromarray(pixels)
    image = whole.quantize(200) if mode == "P" else whole.convert(mode)
    over = image.convert("RGBA")
    wanted = Image.alpha_composite(Image.new("RGBA", size, "white"), over).convert("RGB")
    sizes = []
    composite = Image.alpha_composite

    def note(one: Image.Image, other: Image.Image) -> Image.Image:
        sizes.append(one.width * one.height)
        return composite(one, other)

    monkeypatch.setattr(Image, "alpha_composite", note)
    np.testing.assert_array_equal(np.asarray(decode(encoded(image))), np.asarray(wanted))
    assert sum(sizes) == size[0] * size[1]
    assert max(sizes) <= 1 << 18


def test_first_frame_of_an_animation() -> None:
    frames = [Image.new("RGB", (8, 8), shade) for shade in (RED, "blue", "green")]
    for kind in ("GIF", "PNG", "WEBP", "TIFF"):
        options = {"lossless": True} if kind == "WEBP" else {}
        data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
        assert colour(data) == RED


def test_exif_orientation() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(Image.new("RGB", (20, 10)), "JPEG", exif=exif)
    assert decode(data).size == (10, 20)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"\0" * 100, "not an image, or none of JPEG, PNG"),
        (b"GIF89a", "GIF|damaged"),
        (encoded(Image.new("RGB", (4, 4)), "PPM"), "not an image, or none of"),
        (encoded(Image.new("F", (4, 4)), "TIFF"), "floating-point"),
        (b"GIF89a" + struct.pack("<HHBBB", 0, 0, 0, 0, 0) + b";", "image"),
    ],
)
def test_refuses(data: bytes, reason: str) -> None:
    with pytest.raises(ImageError, match=reason) as caught:
        decode(data)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF"])
def test_refuses_truncated_images(kind: str) -> None:
    data = encoded(noise(), kind)
    for kept in (len(data) // 2, 20):
        with pytest.raises(ImageError, match="damaged or truncated|not an image"):
            decode(data[:kept])


def test_refuses_bombs_before_decoding() -> None:
    bomb = encoded(Image.new("1", (20_000, 20_000)))
    with pytest.raises(ImageError, match="20000x20000 pixels, at most 50000000"):
        decode(bomb)
    with pytest.raises(ImageError, match="60x40 pixels, at most 2399"):
        decode(encoded(noise()), max_pixels=2399)
    assert decode(encoded(noise()), max_pixels=2400).size == (60, 40)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF"])
def test_damage_ends_in_an_image_or_its_own_error(kind: str) -> None:
    random = np.random.default_rng(0)
    data = encoded(noise(9, 7), kind)
    for _ in range(40):
        changed = bytearray(data)
        for place in random.integers(0, min(len(data), 200), 4):
            changed[place] = random.integers(0, 256)
        with contextlib.suppress(ImageError):
            decode(bytes(changed), max_pixels=1_000_000)


@pytest.mark.parametrize("size", [(1, 1), (1, 3000), (3000, 1), (20, 10), (640, 480)])
@pytest.mark.parametrize("crop", [0.875, 1.0])
def test_prepares_any_shape(size: tuple[int, int], crop: float) -> None:
    prepared = crop_and_resize(Image.new("RGB", size, RED), Preparation(24, crop))
    assert (prepared.shape, prepared.dtype) == ((24, 24, 3), np.uint8)
    assert (prepared == np.array(RED, np.uint8)).all()


def test_keeps_the_centre() -> None:
    pixels = np.zeros((100, 200, 3), np.uint8)
    pixels[25:75, 75:125] = 255
    assert crop_and_resize(Image.fromarray(pixels), Preparation(32, 0.5))[2:-2, 2:-2].min() == 255
    whole = crop_and_resize(Image.fromarray(pixels), Preparation(100, 1.0))
    np.testing.assert_array_equal(whole, pixels[:, 50:150])


def test_agrees_with_resizing_and_then_cropping() -> None:
    image = noise(512, 768)
    resized = image.resize((256, 384), Image.Resampling.BICUBIC)
    cropped = np.asarray(resized.crop((16, 80, 16 + 224, 80 + 224))).astype(int)
    assert np.abs(crop_and_resize(image, Preparation(224)).astype(int) - cropped).max() <= 1


def test_prepares_every_distinct_way_once(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = Preparation(8), Preparation(9, 1.0, "bilinear")
    arrays = preprocess_image(encoded(noise()), [a, b, Preparation(8)], MAX_PIXELS)
    assert [array.shape for array in arrays] == [(8, 8, 3), (9, 9, 3), (8, 8, 3)]
    assert arrays[0] is arrays[2]
    pixels = np.asarray(noise())
    for found, expected in zip(
        preprocess_image(pixels, [a, b, a], MAX_PIXELS), arrays, strict=True
    ):
        np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(
        preprocess_image(pixels[:, ::-1], [a], MAX_PIXELS)[0].shape, (8, 8, 3)
    )


@pytest.mark.parametrize(
    "pixels",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((4, 4, 3), np.float32),
        np.zeros((0, 4, 3), np.uint8),
        np.zeros((4, 26, 3), np.uint8),
    ],
)
def test_refuses_pixels(pixels: np.ndarray) -> None:
    with pytest.raises(ImageError):
        preprocess_image(pixels, [Preparation(8)], max_pixels=100)
