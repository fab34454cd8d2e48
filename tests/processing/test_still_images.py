# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
import base64
import io
import urllib.error
import urllib.request

import numpy as np
import pytest
import torch
from PIL import Image, PngImagePlugin

from polyv.processing import still_images
from polyv.processing.still_images import load_image, open_image, read_image, to_eight_bits, to_rgb


@pytest.mark.parametrize(
    "mode", ["1", "L", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV", "I", "F", "LA", "PA", "I;16", "RGBX"]
)
def test_every_mode_becomes_rgb(mode):
    if mode == "I;16":
        image = Image.fromarray(np.full((4, 6), 65535, np.uint16))
    elif mode in ("I", "F"):
        image = Image.new(mode, (6, 4), 65535 if mode == "I" else 1.0)
    else:
        image = Image.new("RGB", (6, 4), "white").convert("L").convert("1") if mode == "1" else Image.new(mode, (6, 4))
    rgb = to_rgb(image)
    assert rgb.mode == "RGB" and rgb.size == (6, 4)
    if mode in ("1", "I", "F", "I;16", "LA", "RGBA"):  # white, or wholly transparent over white
        assert np.asarray(rgb).min() == 255


def test_transparency_lies_over_white(tmp_path):
    rgba = Image.new("RGBA", (2, 1), (255, 0, 0, 255))
    rgba.putpixel((1, 0), (255, 0, 0, 128))
    assert to_rgb(rgba).getpixel((0, 0)) == (255, 0, 0)
    assert to_rgb(rgba).getpixel((1, 0)) == pytest.approx((255, 127, 127), abs=1)
    palette = Image.new("P", (2, 1), 0)
    palette.putpalette([0, 0, 0, 9, 9, 9])
    palette.putpixel((1, 0), 1)
    palette.save(tmp_path / "p.png", transparency=0)
    image = read_image(tmp_path / "p.png")
    assert image.getpixel((0, 0)) == (255, 255, 255) and image.getpixel((1, 0)) == (9, 9, 9)


@pytest.mark.parametrize(
    "top, dtype, mode", [(65535, np.uint16, "I;16"), (1.0, np.float32, "F"), (255.0, np.float32, "F")]
)
def test_deep_greys_keep_their_gradation(top, dtype, mode):
    image = Image.fromarray(np.linspace(0, top, 256).astype(dtype)[None])
    assert image.mode == mode
    np.testing.assert_allclose(np.asarray(to_rgb(image))[0, :, 0], np.arange(256), atol=1)


@pytest.mark.parametrize("suffix", ["jpg", "png"])
@pytest.mark.parametrize("orientation, corner", [(1, (0, 0)), (3, (39, 23)), (6, (23, 0)), (8, (0, 39))])
def test_exif_rotation_is_applied(tmp_path, suffix, orientation, corner):
    image = Image.new("RGB", (40, 24))
    image.paste((255, 255, 255), (0, 0, 8, 8))  # white where the first pixel is stored
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a.{suffix}"
    image.save(path, exif=exif)
    with Image.open(path) as lazy, Image.open(path) as loaded:
        loaded.load()
        uprights = [
            read_image(path),
            load_image(path),
            load_image(path.read_bytes()),
            *map(load_image, (lazy, loaded)),
        ]
    for upright in uprights:
        assert upright.size == ((40, 24) if orientation in (1, 3) else (24, 40))
        assert np.mean(upright.getpixel(corner)) > 200
    assert load_image(uprights[-1]).size == uprights[-1].size  # once: its mark is gone


def test_a_picture_may_come_as_bytes_and_under_another_picture_name(tmp_path):
    stream = io.BytesIO()
    Image.new("RGB", (5, 4), "red").save(stream, "JPEG")
    (tmp_path / "really_a_jpeg.png").write_bytes(stream.getvalue())
    assert read_image(stream.getvalue()).size == read_image(tmp_path / "really_a_jpeg.png").size == (5, 4)


def test_bad_pictures_are_refused(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"none\.png"):
        read_image(tmp_path / "none.png")
    (tmp_path / "text.png").write_text("I am a text")
    with pytest.raises(ValueError, match=r"text\.png: not a picture that PIL can read, whatever its name says"):
        read_image(tmp_path / "text.png")
    Image.effect_noise((64, 64), 50).save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"cut\.png: the picture is damaged or cut short"):
        read_image(tmp_path / "cut.png")
    with pytest.raises(ValueError, match="64x64 pixels are more than max_image_pixels=4095"):
        read_image(tmp_path / "whole.png", max_pixels=4095)
    assert read_image(tmp_path / "whole.png", max_pixels=4096).size == (64, 64)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(ValueError, match=r"whole\.png: .*decompression bomb"):
        read_image(tmp_path / "whole.png")


def test_a_bomb_is_refused_before_it_is_decoded(monkeypatch):
    def explode(*_):
        raise AssertionError("decoded")

    stream = io.BytesIO()
    Image.new("1", (9000, 9000)).save(stream, "PNG")
    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", explode)
    with pytest.raises(ValueError, match="9000x9000 pixels are more than"):
        open_image(stream.getvalue(), max_pixels=10_000_000)


# What callers give


def png(image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


CLEAR = Image.new("RGBA", (6, 4), (200, 0, 0, 0))
GIVEN = {
    "bytes": png(CLEAR),
    "data URL": "data:image/png;base64," + base64.b64encode(png(CLEAR)).decode(),
    "base64": base64.encodebytes(png(CLEAR)).decode(),
    "PIL": CLEAR,
    "array": np.asarray(CLEAR),
    "tensor": torch.from_numpy(np.array(CLEAR)).permute(2, 0, 1),
}


@pytest.mark.parametrize("kind", GIVEN)
def test_transparency_is_white_and_the_limit_holds_however_it_comes(kind):
    rgb = load_image(GIVEN[kind], max_pixels=24)
    assert rgb.mode == "RGB" and rgb.size == (6, 4) and np.asarray(rgb).min() == 255
    with pytest.raises(ValueError, match="6x4 pixels are more than max_image_pixels=23"):
        load_image(GIVEN[kind], max_pixels=23)


def test_a_lazy_picture_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
    Image.new("1", (900, 900)).save(tmp_path / "large.png")
    image = Image.open(tmp_path / "large.png")
    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", lambda *_: 1 / 0)
    with pytest.raises(ValueError, match="image: 900x900 pixels are more than"):
        load_image(image, max_pixels=800 * 900)


def test_addresses_are_fetched_as_bytes(monkeypatch):
    asked = []

    def answer(request, timeout):
        asked.append(request.full_url)
        if "missing" in request.full_url:
            raise urllib.error.URLError("not found")
        return io.BytesIO(png(CLEAR))

    monkeypatch.setattr(urllib.request, "urlopen", answer)
    assert np.asarray(load_image("https://example.org/a.png")).min() == 255
    with pytest.raises(ValueError, match=r"image https://example\.org/a\.png: 6x4 pixels are more than"):
        load_image("https://example.org/a.png", max_pixels=10)
    with pytest.raises(OSError, match=r"image http://example\.org/missing: it cannot be fetched .*not found"):
        load_image("http://example.org/missing")
    assert len(asked) == 3


class Cut(io.BytesIO):
    """As `http.client.HTTPResponse`, whose `read(size)` ends early without a word; `length` is what is missing."""

    length = 1000


def test_what_is_fetched_in_part_or_without_end_is_refused(monkeypatch):
    monkeypatch.setattr(urllib.request, "urlopen", lambda request, timeout: Cut(png(CLEAR)))
    with pytest.raises(OSError, match=r"image https://example\.org/a\.png: it cannot be fetched whole, 1000 bytes"):
        load_image("https://example.org/a.png")
    monkeypatch.setattr(still_images, "MAX_FETCHED_BYTES", 50)
    with pytest.raises(ValueError, match=r"image https://example\.org/a\.png: it is larger than"):
        load_image("https://example.org/a.png")
    for address in ("http://[", "http://a b"):
        monkeypatch.undo()
        with pytest.raises(ValueError, match="not a valid URL"):
            load_image(address)


def test_strings_that_are_no_pictures_are_refused():
    for name in ("nowhere.png", "abcdefgh", "a" * 5000):  # the latter two are valid base64
        with pytest.raises(FileNotFoundError, match="no such file, nor a picture in base64") as caught:
            load_image(name)
        assert len(str(caught.value)) < 300
    with pytest.raises(ValueError, match="image data:image/png: not a valid URL"):
        load_image("data:image/png")
    with pytest.raises(ValueError, match="image data:text/plain,hello: not a picture that PIL can read"):
        load_image("data:text/plain,hello")
    with pytest.raises(TypeError, match="image: got int"):
        load_image(3)


GREY = np.arange(256).reshape(16, 16)


@pytest.mark.parametrize(
    "values",
    [
        GREY.astype(np.uint8),
        GREY.astype(np.uint8)[..., None],
        GREY.astype(np.uint8)[None],
        GREY.astype(np.uint16) * 257,
        GREY.astype(np.int64),
        (GREY / 255).astype(np.float32),
        GREY.astype(np.float64),
        torch.from_numpy(GREY / 255).to(torch.bfloat16),
    ],
    ids=lambda values: f"{values.dtype}{list(values.shape)}",
)
@pytest.mark.parametrize("channels", [1, 3])
def test_arrays_of_every_kind_keep_their_grey(values, channels):
    if channels == 3:
        stack = torch.stack if isinstance(values, torch.Tensor) else np.stack
        values = stack([values.reshape(16, 16)] * 3, -1)
    shown = np.asarray(to_eight_bits(values, 256))
    shown = shown if shown.shape[-1] == 3 else np.moveaxis(shown, 0, -1)
    assert shown.shape == (16, 16, 3)
    tolerance = 0 if values.dtype != torch.bfloat16 else 0.6
    assert np.abs(shown[..., 1].astype(float) - GREY).max() <= tolerance


def test_masks_are_black_and_white():
    shown = np.asarray(load_image(GREY > 99))
    assert set(np.unique(shown)) == {0, 255} and shown[0, 0, 0] == 0


def test_what_qwen_reads_rightly_is_left_to_it():
    rgb = np.stack([GREY.astype(np.uint8)] * 3, -1)
    for array in (rgb, rgb.astype(np.float32), torch.from_numpy(rgb), np.moveaxis(rgb, -1, 0)):
        assert load_image(array) is array
    assert load_image(rgb / 255, rescale=False).max() == 1  # for do_rescale=False


@pytest.mark.parametrize(
    "array, message",
    [
        (np.zeros((0, 0, 3), np.uint8), r"image: 0x0 pixels: it is empty"),
        (np.zeros((0, 5), np.uint8), r"image: 5x0 pixels: it is empty"),
        (np.zeros((5, 5, 2), np.uint8), r"got an array of shape \[5, 5, 2\], expected \[H, W\]"),
        (np.zeros(5), r"got an array of shape \[5\]"),
        (np.full((5, 5), 256), r"got int64 values from 256 to 256, expected 0\.\.255"),
        (np.full((5, 5, 3), -1.0), r"got float64 values from -1 to -1"),
        (np.full((5, 5, 3), np.nan), r"got float64 values from nan to nan"),
        (np.full((5, 5), "a"), r"got an array of <U1, expected numbers"),
    ],
)
def test_arrays_that_are_no_pictures_are_refused(array, message):
    with pytest.raises(ValueError, match=message):
        load_image(array)
