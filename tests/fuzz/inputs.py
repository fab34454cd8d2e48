# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""Strategies: pictures, clips and values that are odd, broken or hostile, among some that are fine."""

import base64
import io
import json
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from PIL import Image

from polyv.world.media import write_video


FORMATS = ("PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP", "PPM", "ICO")
MODES = ("1", "L", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV", "I", "F", "LA", "PA", "I;16")
DTYPES = (
    "uint8", "uint8", "int8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float16", "float32", "float64",
    "bool", "complex64", "object", "U3", "M8[s]",
)  # fmt: skip
TORCH_DTYPES = (torch.uint8, torch.int64, torch.float16, torch.bfloat16, torch.float32, torch.bool, torch.complex64)

junk: st.SearchStrategy[Any] = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
    st.just(object()),
    st.just(Image),
    st.sets(st.integers(), max_size=2),
)
"""What is no medium at all."""

strings = st.one_of(
    st.text(max_size=30),
    st.sampled_from(
        [
            "", ".", "..", "/", "/dev/null", "/dev/zero", "/etc/passwd", "a\0b", "~", "x" * 5000, "no_such_file.png",
            "http://", "http://[", "http://127.0.0.1:9/x.png", "https://127.0.0.1:9", "http://a b", "HTTP://127.0.0.1:9",
            "data:", "data:,", "data:image/png;base64,", "data:image/png;base64,!!!", "data:image/png;base64,AAAA",
            "file:///etc/passwd", "ftp://127.0.0.1:9/x.png", "iVBORw0KGgo=", "AAAA", "s3://bucket/x.png",
        ]
    ),
)  # fmt: skip
"""Names, addresses and base64 that lead nowhere. Of addresses only such as this machine refuses itself."""


@st.composite
def arrays(draw, max_side: int = 40, max_ndim: int = 5) -> Any:
    """NumPy or torch, of any number of axes, type and values."""
    channels = st.sampled_from([1, 2, 3, 4])
    shape = draw(
        st.one_of(
            st.lists(st.integers(0, max_side), max_size=max_ndim),
            st.tuples(st.integers(0, max_side), st.integers(0, max_side), channels).map(list),
            st.tuples(channels, st.integers(1, max_side), st.integers(1, max_side)).map(list),
            st.tuples(st.integers(0, 6), st.integers(1, max_side), st.integers(1, max_side), channels).map(list),
        )
    )
    size = int(np.prod(shape))
    if size > 200_000:
        shape = shape[:3]
    low, high = draw(st.sampled_from([(0, 1), (0, 255), (-1, 1), (0, 65535), (0, 1e30), (250, 260)]))
    values = np.random.default_rng(draw(st.integers(0, 99))).uniform(low, high, shape)
    if values.size and draw(st.booleans()):
        values.flat[0] = draw(st.sampled_from([np.nan, np.inf, -np.inf, -0.0, 0.0]))
    with np.errstate(all="ignore"):
        if draw(st.booleans()):
            return values.astype(draw(st.sampled_from(DTYPES)))
        tensor = torch.from_numpy(np.atleast_1d(values)).to(draw(st.sampled_from(TORCH_DTYPES)))
    if draw(st.integers(0, 9)) == 0:
        return tensor.to("meta")
    if tensor.is_floating_point() and draw(st.booleans()):
        tensor.requires_grad_()
    return tensor


@st.composite
def pictures(draw) -> Image.Image:
    """PIL pictures of every mode, of any size, also of none and of extreme shape."""
    sides = st.one_of(st.integers(0, 60), st.sampled_from([1, 2, 500, 3000]))
    width, height = draw(sides), draw(sides)
    picture = Image.new(draw(st.sampled_from(MODES)), (min(width, 3000), min(height, 200)))
    if draw(st.integers(0, 9)) == 0:
        picture.close()
    return picture


@cache
def picture_bytes(format: str) -> bytes:
    values = np.random.default_rng(0).integers(0, 255, (6, 8, 3), dtype=np.uint8).repeat(4, 0).repeat(4, 1)
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, format)
    return buffer.getvalue()


@cache
def clip_bytes(suffix: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"clip.{suffix}"
        # Of flat frames, so that its data do not outweigh its structure.
        write_video(path, np.full((10, 32, 48, 3), 20 * np.arange(10).reshape(10, 1, 1, 1), dtype=np.uint8), 8.0)
        return path.read_bytes()


@st.composite
def damaged(draw, whole: st.SearchStrategy[bytes]) -> bytes:
    """Bytes of a file cut short, with some of them changed, doubled or left out; or as they are."""
    content = bytearray(draw(whole))
    for _ in range(draw(st.integers(0, 3))):
        start = draw(st.integers(0, max(len(content) - 1, 0)))
        length = draw(st.sampled_from([1, 4, 64, 1000]))
        kind = draw(st.sampled_from(["cut", "change", "drop", "double", "zero", "ones"]))
        if kind == "cut":
            del content[start:]
        elif kind == "drop":
            del content[start : start + length]
        elif kind == "double":
            content[start:start] = content[start : start + length]
        else:
            new = {"zero": b"\0" * length, "ones": b"\xff" * length, "change": draw(st.binary(max_size=8))}[kind]
            content[start : start + len(new)] = new
    return bytes(content)


picture_files = damaged(st.sampled_from(FORMATS).map(picture_bytes))
clip_files = damaged(st.sampled_from(["mp4", "mkv", "avi"]).map(clip_bytes))


def as_source(content: bytes, way: str, path: Path) -> Any:
    """A file's bytes as they are, as a file at `path`, as base64 or in a data: URL."""
    if way == "bytes":
        return content
    if way == "base64":
        return base64.b64encode(content).decode()
    if way == "data":
        return f"data:application/octet-stream;base64,{base64.b64encode(content).decode()}"
    path.write_bytes(content)
    return path if way == "path" else str(path)


WAYS = st.sampled_from(["bytes", "base64", "data", "path", "name"])

json_values: st.SearchStrategy[Any] = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 3),
    st.sampled_from(
        [10**400, -1, 0.5, 1e300, float("nan"), float("inf"), "", "x", "1", "../../../etc/passwd", "/etc/passwd",
         "C:\\x", "..\\..\\x", "a\0b", "x" * 5000, [], {}, [[]], [1, 2], {"a": 1}, [[1, 0], [0, 1]], ["a"] * 4]
    ),
)  # fmt: skip


def edited(content: Any, draw: Any) -> Any:
    """A JSON value with one of its parts, wherever it is, replaced or left out."""
    content = json.loads(json.dumps(content))
    part = content
    while True:
        keys = list(part) if isinstance(part, dict) else list(range(len(part)))
        key = draw(st.sampled_from(keys))
        if isinstance(part[key], (dict, list)) and part[key] and draw(st.booleans()):
            part = part[key]
            continue
        if draw(st.integers(0, 3)) == 0:
            del part[key]
        else:
            part[key] = draw(json_values)
        return content
