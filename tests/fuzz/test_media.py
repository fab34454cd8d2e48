# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""Pictures, clips and scenes that are odd, broken or hostile, through the processor."""

import io
import json
import shutil
import struct
import tempfile
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import strategies as st
from PIL import Image, ImageOps

from polyv.processing.posed_views import PosedViews
from tests.fuzz import inputs
from tests.fuzz.judge import check_batch, fuzz, image_grid, judge, resized, video_grid
from tests.recipes.conftest import pan


IMAGE = "<|vision_start|><|image_pad|><|vision_end|>"
VIDEO = "<|vision_start|><|video_pad|><|vision_end|>"
SCENE = "<|scene_pad|>"


def process(processor, names: str, **media):
    batch = judge(lambda: processor(return_tensors="pt", **media), names)
    if batch is not None:
        check_batch(processor, batch)
    return batch


@fuzz(st.data())
def test_a_picture_in_memory(processor, data):
    kind = data.draw(st.sampled_from(["picture", "array", "junk", "string", "list", "bytes"]))
    strategies = {
        "picture": inputs.pictures(),
        "array": inputs.arrays(),
        "junk": inputs.junk,
        "string": inputs.strings,
        "list": st.lists(
            st.one_of(inputs.pictures(), inputs.arrays(max_side=9), inputs.junk, inputs.strings), max_size=3
        ),
        "bytes": st.binary(max_size=100),
    }
    image = data.draw(strategies[kind])
    batch = process(processor, "image|/etc/passwd", images=image, text=IMAGE)
    if batch is not None:
        (one,) = [each for each in image if each is not None] if kind == "list" else [image]
        if kind == "array" and one.ndim > 3:  # a batch of one
            (one,) = one
        size = (one.height, one.width) if isinstance(one, Image.Image) else rows_and_columns(one.shape)
        assert batch["image_grid_thw"].tolist() == [image_grid(processor, *size)]


def rows_and_columns(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Of an array's shape [..., H, W, C], or else [..., C, H, W], or [H, W]."""
    return tuple(shape[-3:-1] if len(shape) > 2 and shape[-1] in (1, 3, 4) else shape[-2:])


@fuzz(st.data())
def test_a_picture_file(processor, data):
    content = data.draw(inputs.picture_files)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / data.draw(st.sampled_from(["a.png", "a.jpg", "a.mp4", "a", "a.svg", "ä b.webp"]))
        source = inputs.as_source(content, data.draw(inputs.WAYS), path)
        batch = process(
            processor, "image|a.png|/a|ä b", images=[source, np.zeros((20, 30, 3), np.uint8)], text=2 * IMAGE
        )
    if batch is not None:
        with warnings.catch_warnings(), Image.open(io.BytesIO(content)) as picture:
            warnings.simplefilter("ignore")
            width, height = ImageOps.exif_transpose(picture).size
        grids = [image_grid(processor, height, width), image_grid(processor, 20, 30)]
        assert batch["image_grid_thw"].tolist() == grids


@fuzz(st.data())
def test_a_clip_in_memory(processor, data):
    kind = data.draw(st.sampled_from(["array", "frames", "junk", "string", "bytes"]))
    frames = st.one_of(inputs.pictures(), inputs.arrays(max_side=20, max_ndim=4), inputs.strings, inputs.junk)
    strategies = {
        "array": inputs.arrays(max_side=20),
        "frames": st.one_of(
            st.lists(frames, max_size=4), st.tuples(st.integers(1, 5), frames).map(lambda x: [x[1]] * x[0])
        ),
        "junk": inputs.junk,
        "string": inputs.strings,
        "bytes": st.binary(max_size=100),
    }
    options = data.draw(
        st.fixed_dictionaries(
            {},
            optional={
                "fps": st.one_of(inputs.junk, st.floats(-1, 100), st.lists(st.floats(0.1, 30), max_size=3)),
                "num_frames": st.one_of(inputs.junk, st.integers(-2, 20)),
                "max_frames": st.one_of(inputs.junk, st.integers(-2, 20)),
                "video_metadata": st.one_of(
                    inputs.junk,
                    st.fixed_dictionaries(
                        {},
                        optional={"fps": inputs.junk, "total_num_frames": inputs.junk, "frames_indices": inputs.junk},
                    ),
                ),
                "do_sample_frames": st.booleans(),
            },
        )
    )
    video = data.draw(strategies[kind])
    batch = process(processor, "video|fps|num_frames|max_frames|image", videos=video, text=VIDEO, **options)
    if batch is not None and kind == "array" and video.ndim in (3, 4) and options.keys() <= {"fps"}:
        frames = len(video) if video.ndim == 4 else 1
        assert batch["video_grid_thw"].tolist() == [video_grid(processor, frames, *rows_and_columns(video.shape))]
        fps = options.get("fps") or 24  # which is assumed, with a warning
        fps = fps[0] if isinstance(fps, list) else fps
        assert batch["second_per_grid_ts"].tolist() == pytest.approx([2 / fps])


@fuzz(st.data())
def test_a_clip_file(processor, data):
    content = data.draw(st.one_of(inputs.clip_files, inputs.clip_files, inputs.picture_files))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / data.draw(st.sampled_from(["a.mp4", "a.avi", "a", "a.m3u8", "a.txt"]))
        batch = process(
            processor, "video|/a", videos=inputs.as_source(content, data.draw(inputs.WAYS), path), text=VIDEO
        )
    if content in map(inputs.clip_bytes, ("mp4", "mkv", "avi")) and batch is not None:
        # 10 frames in 1.25 s: two a second would be 2, and 4 is the least.
        assert batch["video_grid_thw"].tolist() == [video_grid(processor, 4, 32, 48)]
        assert batch["second_per_grid_ts"].tolist() == pytest.approx([1.25 / 2], abs=0.05)


@pytest.fixture(scope="module")
def scene_folders(tmp_path_factory):
    """One scene in both layouts."""
    root = tmp_path_factory.mktemp("scenes")
    scene = pan(3)
    scene.save(root / "scannet")
    (root / "nerf").mkdir()
    frames = []
    for view in range(3):
        shutil.copy(root / f"scannet/color/{view}.png", root / f"nerf/{view}.png")
        np.save(root / f"nerf/{view}.npy", scene.depths[view] * 1000)
        pose = (scene.poses[view] * [1, -1, -1, 1]).tolist()
        frames.append({"file_path": f"{view}.png", "depth_file_path": f"{view}.npy", "transform_matrix": pose})
    camera = {"fl_x": 60.0, "fl_y": 60.0, "cx": 32.5, "cy": 32.5, "w": 64, "h": 64}
    (root / "nerf/transforms.json").write_text(json.dumps({**camera, "frames": frames}))
    return root


@fuzz(st.data())
def test_a_scene_folder(processor, scene_folders, data):
    layout = data.draw(st.sampled_from(["scannet", "nerf", "nerf", "nerf json", "nerf json"]))
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "a_scene"
        shutil.copytree(scene_folders / layout.split()[0], folder)
        if layout == "nerf json":
            content = json.loads((folder / "transforms.json").read_text())
            for _ in range(data.draw(st.integers(1, 2))):
                content = inputs.edited(content, data.draw)
            (folder / "transforms.json").write_text(json.dumps(content))
        else:
            for _ in range(data.draw(st.integers(0, 2))):
                file = data.draw(st.sampled_from(sorted(path for path in folder.rglob("*") if path.is_file())))
                _damage(file, data)
        batch = process(
            processor,
            "a_scene|scene|frames|intrinsics|depths|poses",
            scenes=str(folder) if data.draw(st.booleans()) else folder,
            text=SCENE,
            scenes_kwargs={"max_pixels": 64 * 64},
        )
    if batch is not None:
        grid = image_grid(processor, 64, 64)
        assert all(row == grid for row in batch["image_grid_thw"].tolist())


def _damage(file: Path, data) -> None:
    how = data.draw(st.sampled_from(["bytes", "remove", "folder", "other", "loop", "empty"]))
    content = file.read_bytes()
    file.unlink()
    if how == "bytes":
        file.write_bytes(data.draw(inputs.damaged(st.just(content))))
    elif how == "folder":
        file.mkdir()
    elif how == "other":
        file.write_bytes(inputs.picture_bytes(data.draw(st.sampled_from(inputs.FORMATS))))
    elif how == "loop":
        file.symlink_to(file)
    elif how == "empty":
        file.touch()


@fuzz(st.data())
def test_a_scene_in_memory(processor, data):
    good = {**vars(pan(2))}
    for name in data.draw(st.lists(st.sampled_from(sorted(good)), max_size=2, unique=True)):
        value = good[name]
        how = data.draw(st.sampled_from(["junk", "array", "list", "values", "shape", "dtype"]))
        if how == "junk":
            value = data.draw(inputs.junk)
        elif how == "array":
            value = data.draw(inputs.arrays(max_side=5))
        elif how == "list":
            value = [*value, data.draw(st.one_of(inputs.junk, inputs.arrays(max_side=5)))]
        elif how == "values":
            value = value.copy().astype(float)
            value.flat[data.draw(st.integers(0, value.size - 1))] = data.draw(st.floats())
        elif how == "shape":
            value = data.draw(st.sampled_from([value[:0], value[:1], value[0], value[None], value[..., :2], value.T]))
        else:
            with np.errstate(all="ignore"):
                value = value.astype(data.draw(st.sampled_from(inputs.DTYPES)))
        good[name] = value
    names = "|".join([*good, "scene"])
    scene = judge(lambda: PosedViews.from_arrays(**good), names)
    if scene is not None:
        batch = process(processor, names, scenes=scene, text=SCENE, scenes_kwargs={"max_pixels": 64 * 64})
        if batch is not None:
            (count, height, width, _), most = scene.images.shape, 64 * 64
            rows, columns = resized(height, width, 16, processor.image_processor.size["shortest_edge"], most)
            assert batch["image_grid_thw"].tolist() == [[1, rows // 8, columns // 8]] * count


@fuzz(st.one_of(inputs.junk, inputs.strings, inputs.arrays(), inputs.pictures(), st.lists(inputs.strings, max_size=2)))
def test_what_is_no_scene(processor, scene):
    process(processor, "scene|/etc/passwd", scenes=scene, text=SCENE)


@fuzz(
    st.dictionaries(
        st.sampled_from(["num_views", "min_pixels", "max_pixels", "views"]),
        st.one_of(inputs.junk, st.integers(-2, 5000)),
        max_size=2,
    )
)
def test_settings_of_scenes(processor, settings):
    names = "scene|num_views|min_pixels|max_pixels"
    batch = process(processor, names, scenes=pan(5), text=SCENE, scenes_kwargs=settings)
    if batch is not None:
        assert len(batch["image_grid_thw"]) == min(5, settings.get("num_views") or 5)


def png_of_zeros(width: int, height: int) -> bytes:
    """A whole PNG of black pixels, one bit each, without making them all."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packer = zlib.compressobj(1)
    rows = [packer.compress(bytes(1 + width // 8)) for _ in range(height)]
    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    content = chunk(b"IHDR", head) + chunk(b"IDAT", b"".join(rows) + packer.flush()) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + content


def test_a_wide_picture_is_refused_in_bounded_memory(processor, scene_folders, tmp_path):
    """50,000 pixels wide: fine while it has few pixels for its width; refused where it is a thread, or as tall as wide,
    whose 2.5 billion pixels would not fit."""
    Image.new("RGB", (50_000, 100)).save(tmp_path / "thread.png")
    assert (
        process(
            processor, r"thread\.png: 50000x100 .* more than 200 times", images=tmp_path / "thread.png", text=IMAGE
        )
        is None
    )
    Image.new("RGB", (50_000, 400)).save(tmp_path / "flat.png")
    assert process(processor, "image", images=tmp_path / "flat.png", text=IMAGE) is not None
    (tmp_path / "square.png").write_bytes(png_of_zeros(50_000, 50_000))
    for media in (
        {"images": tmp_path / "square.png", "text": IMAGE},
        {"videos": [[tmp_path / "square.png"] * 2], "text": VIDEO},
    ):
        assert process(processor, r"square\.png: .*50000", **media) is None
    for file in ("color/1.png", "depth/1.png"):
        folder = shutil.copytree(scene_folders / "scannet", tmp_path / file.partition("/")[0])
        shutil.copy(tmp_path / "square.png", folder / file)
        assert process(processor, r"1\.png: .*50000", scenes=folder, text=SCENE) is None
