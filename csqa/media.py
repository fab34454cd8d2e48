# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""Images, videos and scenes as columns of a dataset."""

import io
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Features, Image, List, Value, Video
from PIL import Image as Picture

from polyv.csqa.records import Media
from polyv.processing.posed_views import PosedViews
from polyv.processing.still_images import load_image


_MATRICES = List(List(List(Value("float64"))))

FEATURES = Features(
    {
        "id": Value("string"),
        "scene_id": Value("string"),
        "family": Value("string"),
        "template": Value("string"),
        "question": Value("string"),
        "answer": Value("string"),
        "distractors": List(Value("string")),
        "shown": List(Value("string")),
        "needed": Value("string"),
        "messages": List(
            {"role": Value("string"), "content": List({"type": Value("string"), "text": Value("string")})}
        ),
        "images": List(Image()),
        "videos": List(Video(decode=False)),  # `datasets` decodes with torchcodec only; PolyV's processor with PyAV
        "scenes": List(
            {
                "views": List(Image()),
                "depths": List(Image()),  # 16 bits, millimetres; 0 where not measured
                "intrinsics": _MATRICES,
                "poses": _MATRICES,
                "image_intrinsics": _MATRICES,
            }
        ),
        "program": Value("string"),
        "support": Value("string"),
        "provenance": Value("string"),
    }
)


def encode(kind: str, media: Media, folder: Path) -> dict[str, Any]:
    """One medium of a scene as a value of its column.

    Raises:
        FileNotFoundError: its file is not there.
        ValueError: it cannot be read (see `load_image`, `PosedViews.load`).
    """
    path = folder / getattr(media, kind)
    if kind == "scene":
        views = PosedViews.load(path)
        return {
            "views": [_png(Picture.fromarray(picture)) for picture in views.images],
            "depths": [_png(Picture.fromarray(depth)) for depth in views.depths_in_millimetres()],
            "intrinsics": views.intrinsics.tolist(),
            "poses": views.poses.tolist(),
            "image_intrinsics": views.image_intrinsics.tolist(),
        }
    if kind == "image":
        load_image(path)
    return {"bytes": path.read_bytes(), "path": None}


def decode_scene(value: dict[str, Any]) -> PosedViews:
    """A value of the column "scenes", as `datasets` gives it, as posed views."""
    depths = [np.asarray(_opened(depth), dtype=np.float32) / 1000 for depth in value["depths"]]
    pictures = [_opened(view).convert("RGB") for view in value["views"]]
    return PosedViews.from_arrays(pictures, depths, value["intrinsics"], value["poses"], value.get("image_intrinsics"))


def _png(picture: Picture.Image) -> dict[str, Any]:
    content = io.BytesIO()
    picture.save(content, "PNG")
    return {"bytes": content.getvalue(), "path": None}


def _opened(value: Any) -> Picture.Image:
    """`datasets` gives pictures, or, undecoded, their bytes."""
    return Picture.open(io.BytesIO(value["bytes"])) if isinstance(value, dict) else value


__all__ = ["FEATURES", "decode_scene", "encode"]
