# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""A scene as ordinary files (PNG, MP4, a ScanNet-layout folder) and as the record of what they show."""

from collections.abc import Sequence
from fractions import Fraction
from itertools import islice
from pathlib import Path

import av
import numpy as np
from PIL import Image

from polyv.processing.posed_views import PosedViews
from polyv.world.cameras import camera
from polyv.world.physics import FPS
from polyv.world.records import Appearance, Camera, WorldMedia, WorldObject, WorldRecord
from polyv.world.rendering import Frame, Renderer, visible_box
from polyv.world.scenes import Scene


_UNMOVED = 5e-4  # metres, and as much in a quaternion: too little to change a pixel
# The same frames have to give the same bytes: one thread, and none of x264's processor-specific arithmetic, which was
# seen to give two different files from one clip in one process (macroblock tree, x264 165).
_X264 = {"crf": "18", "preset": "fast", "threads": "1", "x264-params": "cpu-independent=1"}


def write_scene(scene: Scene, folder: Path, size: int) -> WorldRecord:
    """Render `scene` into `folder`: image.png, moved.png, video.mp4, scene/ and record.json.

    The record's paths are those of `scenes/<folder's name to be>/...` in the split's folder.
    """
    # The image stands before the video, whose first frame it is where the camera is fixed: drawn once.
    poses = {
        "moved": [scene.moved_pose],
        "views": scene.view_poses,
        "image": [scene.image_pose],
        "video": scene.video_poses,
    }
    start = scene.motion.states[0]
    states = [start] * (2 + len(scene.view_poses)) + list(scene.motion.states)
    shots = [camera(pose, size) for name in poses for pose in poses[name]]
    drawn = _shoot(Renderer(scene.model, scene.things, scene.look), states, shots)
    cameras, frames, looks = (_split(poses, items) for items in (shots, *drawn))
    record = _record(scene, cameras, looks)
    Image.fromarray(frames["image"][0].colour).save(folder / "image.png")
    Image.fromarray(frames["moved"][0].colour).save(folder / "moved.png")
    write_video(folder / "video.mp4", np.stack([frame.colour for frame in frames["video"]]), FPS)
    PosedViews.from_arrays(
        [frame.colour for frame in frames["views"]],
        [frame.depth for frame in frames["views"]],
        np.array(cameras["views"][0].intrinsics),
        np.stack(scene.view_poses),
    ).save(folder / "scene")
    (folder / "record.json").write_text(record.model_dump_json() + "\n", encoding="utf-8")
    return record


def _split(poses: dict[str, Sequence[np.ndarray]], items: list) -> dict[str, list]:
    """One item a pose, in order, under the poses' names."""
    rest = iter(items)
    return {name: list(islice(rest, len(poses[name]))) for name in poses}


def _shoot(renderer: Renderer, states, cameras: list[Camera]) -> tuple[list[Frame], list[tuple[Appearance, ...]]]:
    """Frames, and how each thing shows in them. A frame in which nothing moved since the one before is that one."""
    frames: list[Frame] = []
    looks: list[tuple[Appearance, ...]] = []
    drawn, seen_by = states[0], None
    for state, view in zip(states, cameras, strict=True):
        if view == seen_by and np.abs(state - drawn).max() < _UNMOVED:
            frames.append(frames[-1])
            looks.append(looks[-1])
            continue
        drawn, seen_by = state, view
        data = renderer.pose_things(state)
        frame = renderer.render(data, view)
        pixels = np.bincount(frame.segments[frame.segments >= 0], minlength=len(renderer.things))
        fractions = renderer.fractions(data, view, pixels).tolist()
        frames.append(frame)
        looks.append(
            tuple(
                Appearance(box=visible_box(frame.segments, index), visible=round(fraction, 3))
                for index, fraction in enumerate(fractions)
            )
        )
    return frames, looks


def _record(scene: Scene, cameras: dict[str, list], looks: dict[str, list]) -> WorldRecord:
    name = scene_name(scene.index)
    tracks = scene.motion.frame_tracks
    objects = []
    for index, thing in enumerate(scene.things):
        outline = thing.outline()
        track = tuple(map(tuple, tracks[:, index].round(4).tolist()))
        objects.append(
            WorldObject(
                id=thing.id,
                category=thing.category,
                attributes={"colour": thing.colour, "size": thing.size},
                position=track[0],
                extent=tuple((outline.max(axis=0) - outline.min(axis=0)).round(4).tolist()),
                track=track,
                in_image=looks["image"][0][index],
                in_moved=looks["moved"][0][index],
                in_video=tuple(look[index] for look in looks["video"]),
                in_views=tuple(look[index] for look in looks["views"]),
            )
        )
    folder = f"scenes/{name}"
    return WorldRecord(
        scene_id=name,
        split=scene.split,
        seed=scene.seed,
        layout=scene.layout,
        fps=FPS,
        objects=tuple(objects),
        relations=scene.relations,
        media=WorldMedia(
            image=f"{folder}/image.png",
            moved=f"{folder}/moved.png",
            video=f"{folder}/video.mp4",
            scene=f"{folder}/scene",
        ),
        image_camera=cameras["image"][0],
        moved_camera=cameras["moved"][0],
        camera_motion=scene.camera_motion,
        video_cameras=tuple(cameras["video"]),
        view_cameras=tuple(cameras["views"]),
    )


def scene_name(index: int) -> str:
    return f"{index:06d}"


def write_video(path: Path, frames: np.ndarray, fps: float) -> None:
    """Write uint8 frames `[F, H, W, 3]` as H.264 (yuv420p: height and width must be even)."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps), options=_X264)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
