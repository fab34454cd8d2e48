# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""Images, videos and scenes as columns of a dataset."""

from collections.abc import Iterator
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import Any

import av
import numpy as np
from datasets import Features, Image, List, Value, Video
from PIL import Image as Picture

from polyv.csqa.records import Media
from polyv.processing.posed_views import PosedViews
from polyv.processing.still_images import load_image
from polyv.processing.view_sampling import VIDEO_FORMATS


COLUMNS = {"image": "images", "video": "videos", "scene": "scenes"}
_MATRICES = List(List(List(Value("float64"))))

FEATURES = Features(
    {
        "id": Value("string"),
        "scene_id": Value("string"),
        "family": Value("string"),
        "template": Value("string"),
        "question": Value("string"),
        "plain": Value("string"),
        "wording": Value("string"),
        "reading": Value("string"),
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
    if not path.exists():
        raise FileNotFoundError(
            f"{path}: no such file. A scene graph has it as its {kind}: do its paths start at {folder}?"
        )
    if kind == "scene":
        views = PosedViews.load(path, media.num_views)
        motion = np.eye(4) if media.alignment is None else np.asarray(media.alignment)
        return {
            "views": [_png(Picture.fromarray(picture)) for picture in views.images],
            "depths": [_png(Picture.fromarray(depth)) for depth in views.depths_in_millimetres()],
            "intrinsics": views.intrinsics.tolist(),
            "poses": (motion @ views.poses).tolist(),
            "image_intrinsics": views.image_intrinsics.tolist(),
        }
    if kind == "image" and media.image == media.video:
        frame = next(islice(video_frames(str(path)), media.image_frame, None), None)
        if frame is None:
            raise ValueError(f"{path}: it has no frame {media.image_frame}, which is to be the image.")
        return _png(Picture.fromarray(frame))
    if kind == "image" and media.image == media.scene:
        views = PosedViews.load(path, media.num_views)
        return _png(Picture.fromarray(views.images[media.image_view or 0]))
    if kind == "image":
        load_image(path)
    else:
        next(video_frames(str(path)))  # nothing but a video goes in
    return {"bytes": path.read_bytes(), "path": None}


def video_frames(source: str | BytesIO) -> Iterator[np.ndarray]:
    """The frames of a video, uint8 [H, W, 3], upright, one by one. ValueError: it is none."""
    with av.open(source, options={"format_whitelist": VIDEO_FORMATS}) as container:
        for frame in container.decode(video=0):  # type: ignore[union-attr]
            yield np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90))


def decode_scene(value: dict[str, Any]) -> PosedViews:
    """A value of the column "scenes", as `datasets` gives it, as posed views."""
    depths = [np.asarray(_opened(depth), dtype=np.float32) / 1000 for depth in value["depths"]]
    pictures = [_opened(view).convert("RGB") for view in value["views"]]
    return PosedViews.from_arrays(pictures, depths, value["intrinsics"], value["poses"], value.get("image_intrinsics"))


def _png(picture: Picture.Image) -> dict[str, Any]:
    content = BytesIO()
    picture.save(content, "PNG")
    return {"bytes": content.getvalue(), "path": None}


def _opened(value: Any) -> Picture.Image:
    """`datasets` gives pictures, or, undecoded, their bytes."""
    return Picture.open(BytesIO(value["bytes"])) if isinstance(value, dict) else value


__all__ = ["COLUMNS", "FEATURES", "decode_scene", "encode", "video_frames"]
