# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""Still images of every kind, from whatever holds them, as upright RGB pictures of a bounded size."""

import base64
import io
import os
import urllib.request
from http.client import HTTPException, InvalidURL
from typing import Any, TypeGuard

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError


MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS or 89_478_485
"""Pixels above which a picture is refused: PIL's own limit against decompression bombs (about 89 million)."""

_MAX_ASPECT_RATIO = 200  # of transformers' `smart_resize`

MAX_FETCHED_BYTES = 1 << 30
"""Bytes above which what a URL holds is refused: they are read into memory."""


def open_image(
    source: str | os.PathLike | bytes, max_pixels: int = MAX_IMAGE_PIXELS, name: str | None = None
) -> Image.Image:
    """Open and decode a picture, its format told by its content, after checking how large it says it is.

    `name` stands for bytes in messages.

    Raises:
        FileNotFoundError: there is no such file.
        OSError: the file cannot be read.
        ValueError: the file is no picture, is cut short, or has more than `max_pixels` pixels.
    """
    name = _label(source, name)
    try:
        image = Image.open(io.BytesIO(source) if isinstance(source, bytes) else source)
    except UnidentifiedImageError as error:
        raise ValueError(
            f"{name}: not a picture that PIL can read, whatever its name says. Expected PNG, JPEG, WebP, …"
        ) from error
    except Image.DecompressionBombError as error:
        raise ValueError(f"{name}: {error} Resize it first.") from error
    except Exception as error:
        raise unreadable(name, error) from error
    try:
        check_pixels(image.width, image.height, max_pixels, name)
    except ValueError:
        image.close()
        raise
    try:
        image.load()
    except Exception as error:
        raise unreadable(name, error) from error
    return image


def unreadable(name: str, error: Exception, what: str = "the picture is damaged or cut short") -> Exception:
    """What to raise for what a library raises over a malformed file: anything at all."""
    if isinstance(error, MemoryError):
        return error
    if isinstance(error, OSError) and error.errno is not None:  # of the file system
        told = type(error)(f"{name}: it cannot be read ({error.strerror}).")
        told.errno, told.filename = error.errno, error.filename
        return told
    return ValueError(f"{name}: {what} ({error}).")


def check_pixels(width: int, height: int, max_pixels: int, name: str) -> None:
    """Refuse what holds more than `max_pixels`, or nothing, or is all too long."""
    if width * height > max_pixels:
        raise ValueError(
            f"{name}: {width}x{height} pixels are more than max_image_pixels={max_pixels}. "
            "Resize it first, or raise the limit if you trust the file."
        )
    if width * height == 0:
        raise ValueError(f"{name}: {width}x{height} pixels: it is empty.")
    if max(width, height) > _MAX_ASPECT_RATIO * min(width, height):
        raise ValueError(
            f"{name}: {width}x{height} pixels: one side is more than {_MAX_ASPECT_RATIO} times the other, which Qwen2.5-VL "
            "does not scale. Crop it first."
        )


def to_rgb(image: Image.Image) -> Image.Image:
    """Turn any PIL mode into RGB: transparency put over white, 16 bits and floats scaled to 8 bits.

    16-bit grey (I;16 and I) is read over 0..65535, float (F) over 0..1 where its values fit there, else 0..255.
    """
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image, dtype=np.float64)
        top = 65535.0 if image.mode.startswith("I") else (1.0 if np.nanmax(values) <= 1 else 255.0)
        grey = np.nan_to_num(values / top).clip(0, 1) * 255
        return Image.fromarray(grey.round().astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def read_image(
    source: str | os.PathLike | bytes, max_pixels: int = MAX_IMAGE_PIXELS, name: str | None = None
) -> Image.Image:
    """`open_image`, turned upright as its EXIF mark says, then `to_rgb`."""
    return _upright(open_image(source, max_pixels, name), _label(source, name))


def _label(source: str | os.PathLike | bytes, name: str | None) -> str:
    return name or ("an image given as bytes" if isinstance(source, bytes) else str(source))


def _upright(image: Image.Image, name: str) -> Image.Image:
    try:
        return to_rgb(ImageOps.exif_transpose(image))
    except Exception as error:  # a mark that cannot be read; or a picture opened by the caller, not decoded until now
        raise unreadable(name, error) from error


def load_image(image: Any, max_pixels: int = MAX_IMAGE_PIXELS, rescale: bool = True) -> Any:
    """An image from whatever a caller gives: a path, bytes, an http(s) or data: URL, base64, PIL, an array.

    The size is checked before anything is decoded or converted.

    Args:
        rescale: the image processor will divide by 255; see `to_eight_bits`.

    Returns:
        RGB, as a PIL picture; arrays that Qwen2.5-VL's image processor reads rightly itself come back as they are.

    Raises:
        FileNotFoundError: a string is no file, no URL and no picture in base64.
        OSError: the URL cannot be fetched.
        ValueError: as `open_image` and `to_eight_bits` say.
        TypeError: it is none of these.
    """
    if isinstance(image, (bytes, os.PathLike)) or (isinstance(image, str) and os.path.isfile(image)):
        return read_image(image, max_pixels)
    if isinstance(image, str):
        content = fetch(image, "image") if is_address(image) else _from_base64(image)
        return read_image(content, max_pixels, f"image {short(image)}")
    if isinstance(image, Image.Image):
        check_pixels(*image.size, max_pixels, "image")
        return _upright(image, "image")
    if isinstance(image, (np.ndarray, torch.Tensor)):
        pixels = to_eight_bits(image, max_pixels, rescale)
        return image if pixels is image else Image.fromarray(pixels)
    raise TypeError(f"image: got {type(image).__name__}, expected a path, bytes, a URL, a PIL picture or an array.")


def to_eight_bits(pixels: Any, max_pixels: int, rescale: bool = True, name: str = "image") -> Any:
    """Bring an array of pixels to uint8 `[..., H, W, 3]`.

    Args:
        pixels: NumPy or torch `[..., H, W, C]` or `[..., C, H, W]` with 1, 3 or 4 channels (grey, RGB, RGBA), or
            `[H, W]`. Booleans are black and white, uint16 lies over 0..65535, other integers over 0..255. Floats lie
            over 0..1 where all of them fit there, else over 0..255.
        rescale: False leaves floats as they are: they are meant for a processor with `do_rescale=False`.

    Returns:
        `pixels` itself where it is uint8 of three channels, or floats of three channels over 0..255.

    Raises:
        ValueError: another shape, no pixels, more than `max_pixels`, or values outside the range.
    """
    if getattr(pixels, "is_meta", False):
        raise ValueError(f"{name}: got a tensor on the device 'meta', which holds no data.")
    shape = tuple(pixels.shape) if pixels.ndim != 2 else (*pixels.shape, 1)
    last = len(shape) >= 3 and shape[-1] in (1, 3, 4)
    if not last and not (len(shape) >= 3 and shape[-3] in (1, 3, 4)):
        raise ValueError(
            f"{name}: got an array of shape {list(pixels.shape)}, expected [H, W], [H, W, C] or [C, H, W] with C of 1, 3 "
            "or 4 (frames of a video: [T, H, W, C] or [T, C, H, W])."
        )
    height, width, channels = shape[-3:] if last else (*shape[-2:], shape[-3])
    check_pixels(width, height, max_pixels, name)
    floating = pixels.is_floating_point() if isinstance(pixels, torch.Tensor) else pixels.dtype.kind == "f"
    if (channels == 3 and pixels.dtype in (np.uint8, torch.uint8)) or (floating and not rescale):
        return pixels
    values = pixels
    if isinstance(pixels, torch.Tensor):  # NumPy has no bfloat16
        values = (pixels.float() if floating else pixels).detach().cpu().numpy()
    top = _top(values, name)
    if channels == 3 and floating and top == 255:
        return pixels
    values = values.reshape(shape) if last else np.moveaxis(values, -3, -1)
    values = values if values.dtype == np.uint8 else np.rint(values * (255 / top)).astype(np.uint8)
    if channels == 4:
        frames = values.reshape(-1, height, width, 4)
        return np.stack([np.asarray(to_rgb(Image.fromarray(frame))) for frame in frames]).reshape(
            *values.shape[:-1], 3
        )
    return np.repeat(values, 3, axis=-1) if channels == 1 else np.ascontiguousarray(values)


def unambiguous(pixels: Any) -> Any:
    """A picture or an array as it is; `[..., H, W, C]` as `[..., C, H, W]` where H could be a number of channels, for
    transformers would take it for that."""
    if getattr(pixels, "ndim", 0) < 3 or pixels.shape[-1] not in (1, 3, 4) or pixels.shape[-3] not in (1, 3, 4):
        return pixels
    return pixels.movedim(-1, -3) if isinstance(pixels, torch.Tensor) else np.moveaxis(pixels, -1, -3)


def _top(values: np.ndarray, name: str) -> float:
    """The value that stands for white."""
    if values.dtype == bool:
        return 1
    if values.dtype == np.uint16:
        return 65535
    if values.dtype.kind not in "iuf":
        raise ValueError(f"{name}: got an array of {values.dtype}, expected numbers: uint8, or floats over 0..1.")
    low, high = float(values.min()), float(values.max())
    if not 0 <= low <= high <= 255:  # also where one of them is NaN
        raise ValueError(
            f"{name}: got {values.dtype} values from {low:g} to {high:g}, expected 0..255 (or floats over 0..1). "
            "Undo a normalisation, or scale them."
        )
    return 1 if values.dtype.kind == "f" and high <= 1 else 255


def is_address(medium: Any) -> TypeGuard[str]:
    """Whether it is an http(s) or data: URL."""
    return isinstance(medium, str) and medium.startswith(("http://", "https://", "data:"))


def fetch(address: str, kind: str) -> bytes:
    """What an http(s) or data: URL holds; `kind` ("image", "video") names it in messages.

    Raises:
        OSError: it cannot be fetched, or not whole.
        ValueError: it is no URL, or holds more than `MAX_FETCHED_BYTES`.
    """
    try:
        request = urllib.request.Request(address, headers={"User-Agent": "polyv"})
        with urllib.request.urlopen(request, timeout=60) as response:
            content = response.read(MAX_FETCHED_BYTES + 1)
            missing = getattr(response, "length", None)  # of an HTTP response, whose `read(size)` may end early
    except (ValueError, InvalidURL) as error:
        raise ValueError(f"{kind} {short(address)}: not a valid URL ({error}).") from error
    except (OSError, HTTPException) as error:
        raise OSError(f"{kind} {short(address)}: it cannot be fetched ({error}).") from error
    if len(content) > MAX_FETCHED_BYTES:
        raise ValueError(
            f"{kind} {short(address)}: it is larger than {MAX_FETCHED_BYTES >> 20} MiB. Download it, and give the file."
        )
    if missing:
        raise OSError(f"{kind} {short(address)}: it cannot be fetched whole, {missing} bytes are missing. Try again.")
    return content


def _from_base64(text: str) -> bytes:
    """The picture that a bare base64 string holds."""
    try:
        content = base64.b64decode("".join(text.split()), validate=True)
        Image.open(io.BytesIO(content)).close()  # many a file name is also valid base64
    except Exception:  # of PIL, whatever a malformed picture makes it trip over
        raise FileNotFoundError(f"image {short(text)}: no such file, nor a picture in base64.") from None
    return content


def short(address: str) -> str:
    """An address for a message: a data: URL may be millions of characters long."""
    return address if len(address) <= 200 else f"{address[:60]}…"
