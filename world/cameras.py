# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""Where the cameras of a scene stand: main, moved, fly-through and the ring of posed views.

A camera is a camera-to-world pose `[4, 4]` in OpenCV's axes (x right, y down, z forward). All cameras of the world
share one field of view.
"""

from typing import Literal

import numpy as np

from polyv.world.records import Camera


FOCAL = 1.4  # in widths of the (square) picture: a field of view of 39 degrees
MARGIN = 0.9  # content keeps within this part of the picture
_FLOOR = 0.2  # metres: no camera goes lower

CameraMotion = Literal["left", "right", "up", "down", "forward", "backward"]
MOTIONS: dict[CameraMotion, tuple[float, float, float]] = {  # direction of each camera motion in the camera's own axes
    "left": (-1.0, 0.0, 0.0),
    "right": (1.0, 0.0, 0.0),
    "up": (0.0, -1.0, 0.0),
    "down": (0.0, 1.0, 0.0),
    "forward": (0.0, 0.0, 1.0),
    "backward": (0.0, 0.0, -1.0),
}
_STEP: dict[CameraMotion, float] = {
    "forward": 0.28,
    "backward": 0.36,
}  # of the distance to the content; sideways motions go less far:
_SIDE_STEP = 0.14


def camera(pose: np.ndarray, size: int) -> Camera:
    """The record of a camera whose pictures are size×size; centre of the first pixel at (0, 0)."""
    centre = (size - 1) / 2
    return Camera(
        pose=pose.tolist(),
        intrinsics=((FOCAL * size, 0.0, centre), (0.0, FOCAL * size, centre), (0.0, 0.0, 1.0)),
        width=size,
        height=size,
    )


def look_at(eye: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The pose of an upright camera at `eye` that looks at `target`; not straight up or down."""
    forward = (target - eye) / np.linalg.norm(target - eye)
    right = np.cross(forward, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right)
    pose = np.eye(4)
    pose[:3, :3] = np.stack([right, np.cross(forward, right), forward], axis=1)
    pose[:3, 3] = eye
    return pose


def direction(azimuth: float, elevation: float) -> np.ndarray:
    """Unit vector from the content to a camera; radians."""
    return np.array([np.cos(azimuth) * np.cos(elevation), np.sin(azimuth) * np.cos(elevation), np.sin(elevation)])


def frame_content(points: np.ndarray, azimuth: float, elevation: float, margin: float = MARGIN) -> np.ndarray:
    """The nearest pose in that direction from which all `points` `[N, 3]` lie within the picture's `margin`."""
    towards = direction(azimuth, elevation)
    rotation = look_at(towards, np.zeros(3))[:3, :3]
    right, down, depth = (points @ rotation).T
    slope = margin / (2 * FOCAL)
    # The pyramid of sight that touches the points on either side: x <= slope (z - z0) and x >= -slope (z - z0).
    apex_x, depth_x = _apex(right, depth, slope)
    apex_y, depth_y = _apex(down, depth, slope)
    pose = np.eye(4)
    pose[:3, :3] = rotation
    pose[:3, 3] = rotation @ [apex_x, apex_y, min(depth_x, depth_y)]
    return pose


def _apex(across: np.ndarray, depth: np.ndarray, slope: float) -> tuple[float, float]:
    upper, lower = (across - slope * depth).max(), (-across - slope * depth).max()
    return (upper - lower) / 2, -(upper + lower) / (2 * slope)


def move(pose: np.ndarray, motion: CameraMotion, distance: float) -> np.ndarray:
    """`pose` shifted along one of `MOTIONS`, clearly for content at `distance` metres."""
    moved = pose.copy()
    moved[:3, 3] += pose[:3, :3] @ MOTIONS[motion] * distance * _STEP.get(motion, _SIDE_STEP)
    return moved


def is_above_floor(pose: np.ndarray) -> bool:
    return bool(pose[2, 3] >= _FLOOR)


def ring(points: np.ndarray, count: int, rng: np.random.Generator) -> list[np.ndarray]:
    """`count` poses around the content, evenly spaced up to a little jitter, each seeing all `points`."""
    start = rng.uniform(0, 2 * np.pi)
    return [
        frame_content(
            points, start + 2 * np.pi * (k + rng.uniform(-0.15, 0.15)) / count, np.deg2rad(rng.uniform(24, 42))
        )
        for k in range(count)
    ]


def fly_through(points: np.ndarray, frames: int, rng: np.random.Generator) -> list[np.ndarray]:
    """A path along the content: it starts beside it, so that part comes into view later.

    The camera circles by 40 to 90 degrees and its gaze passes over the content from one end to the other.
    """
    azimuth, sweep = rng.uniform(0, 2 * np.pi), np.deg2rad(rng.uniform(40, 90)) * rng.choice([-1, 1])
    elevation = np.deg2rad(rng.uniform(22, 36))
    centre = (points.min(axis=0) + points.max(axis=0)) / 2
    distance = np.linalg.norm(frame_content(points, azimuth, elevation)[:3, 3] - centre) * rng.uniform(0.7, 0.85)
    reach = rng.uniform(0.28, 0.45) * distance * rng.choice([-1, 1])
    poses = []
    for time in np.linspace(-1.0, 1.0, frames):
        towards = direction(azimuth + sweep * time / 2, elevation)
        aside = np.cross([0.0, 0.0, 1.0], towards)
        poses.append(look_at(centre + towards * distance, centre + reach * time * aside / np.linalg.norm(aside)))
    return poses
