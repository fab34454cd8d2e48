# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""Real media files for the tests (videos written by PyAV, a plane photographed by posed RGB-D cameras), processors."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from polyv.processing.posed_views import PosedViews
from polyv.processing.processing_polyv import PolyVProcessor
from tests.tiny_tokenizer import build_qwen_processor


def write_video(path, levels, times=None, fps=8, size=(64, 48), noise=0, codec="libx264", **options) -> Path:
    """A file, of H.264 unless `codec` says else, whose k-th frame is grey of `levels[k]`, shown from `times[k]` seconds (default: evenly by fps).

    `noise` (0..255) roughens it, so that its data outweigh its headers.
    """
    base, rng = Fraction(1, fps if times is None else 1000), np.random.default_rng(0)
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream(codec, rate=fps, options={"bf": "0", "x265-params": "log-level=none"})
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        stream.codec_context.time_base = stream.time_base = base
        container.start_encoding()
        for index, level in enumerate(levels):
            frame = av.VideoFrame.from_ndarray(
                level + rng.integers(0, noise + 1, (size[1], size[0], 3)).astype(np.uint8), format="rgb24"
            )
            frame.pts, frame.time_base = round((index / fps if times is None else times[index]) / base), base
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return Path(path)


def intrinsics_for(height: int, width: int, focal: float = 0.9) -> np.ndarray:
    """A camera that looks straight ahead, of one field of view whatever the resolution."""
    return np.array([[focal * width, 0, (width - 1) / 2], [0, focal * width, (height - 1) / 2], [0, 0, 1.0]])


def look_at(eye, target=(0.0, 0.0, 0.0)) -> np.ndarray:
    """Camera-to-world pose at `eye`, OpenCV axes, upright in a world whose z points up."""
    forward = np.subtract(target, eye) / np.linalg.norm(np.subtract(target, eye))
    right = np.cross(forward, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right)
    pose = np.eye(4)
    pose[:3, :3] = np.stack([right, np.cross(forward, right), forward], axis=1)
    pose[:3, 3] = eye
    return pose


def photograph_floor(poses, image_size=(90, 120), depth_size=(60, 80)) -> PosedViews:
    """Views of the plane z = 0 by analytic depth: independent of `PosedViews.unproject`."""
    k = intrinsics_for(*depth_size)
    rows, columns = np.mgrid[: depth_size[0], : depth_size[1]]
    rays = np.stack([columns, rows, np.ones(depth_size)], axis=-1) @ np.linalg.inv(k).T
    depths = [-pose[2, 3] / (rays @ pose[:3, :3].T)[..., 2] for pose in poses]
    return PosedViews.from_arrays(np.zeros((len(poses), *image_size, 3), np.uint8), depths, k, np.stack(poses))


@pytest.fixture
def floor() -> PosedViews:
    return photograph_floor([look_at((2, 0, 2)), look_at((-1, 2, 2.5)), look_at((0.5, -2, 1.8))])


def user(*content):
    return [{"role": "user", "content": [{"type": "text", "text": c} if isinstance(c, str) else c for c in content]}]


@pytest.fixture(scope="module")
def qwen():
    return build_qwen_processor()


@pytest.fixture(scope="module")
def qwen_folder(qwen, tmp_path_factory):
    folder = tmp_path_factory.mktemp("qwen")
    qwen.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def processor(qwen_folder):
    return PolyVProcessor.from_pretrained(qwen_folder)
