# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""What a viewer of a picture, or of a video, can tell without doubt.

Questions are asked only where a careful viewer has none: an object is "clear" in a picture only when most of it shows and
it is not tiny, and comparisons are answered only with a margin, never on a near tie. Metres, seconds, pixels and degrees;
axes as in `polyv.csqa.records`.
"""

import math
from collections.abc import Iterable
from itertools import product

import numpy as np

from polyv.csqa.records import Appearance, Camera, SceneObject, SceneRecord


# Of an object's own pixels, how many must show; and how wide and high its box must be, of the picture's width.
CLEAR_FRACTION = 0.6
CLEAR_SIZE = 0.055

# The farther of two distances must be at least this many times the nearer one: between objects, and from a camera
# (which stands far off, so that the same ratio is a longer way).
MARGIN = 1.2
CAMERA_MARGIN = 1.12

# Left and right are asked this far from straight ahead and straight behind (degrees).
SIDE_MARGIN = 25.0
# Ahead and behind are asked this far from the two sides (degrees).
AHEAD_MARGIN = 30.0

# Metres: what is asked for a direction must move at least so far. Across and away: one must outweigh the other by this
# factor. Shortest way by the way taken.
_TRAVEL = 0.25
_DIRECTION_RATIO = 1.6
_STRAIGHTNESS = 0.85


def is_clear(seen: Appearance | None, camera: Camera | None) -> bool:
    """Whether nobody could overlook or mistake the object in this picture, as far as that is known."""
    if seen is None or seen.box is None or (seen.visible is not None and seen.visible < CLEAR_FRACTION):
        return False
    if camera is None:
        return True
    x0, y0, x1, y1 = seen.box
    smallest = CLEAR_SIZE * camera.width
    if min(x0, y0) < 1 or x1 > camera.width - 2 or y1 > camera.height - 2:
        smallest *= 2  # the border may cut it off, which `visible` does not count
    return x1 - x0 >= smallest and y1 - y0 >= smallest


def is_hidden(seen: Appearance) -> bool:
    """Whether not a pixel of the object shows. Between clear and hidden lies what is never asked about."""
    return seen.box is None


def box_centre(seen: Appearance) -> tuple[float, float]:
    """Middle of the box in pixels (x, y). ValueError where the object is not seen."""
    if seen.box is None:
        raise ValueError("seen has no box: the object does not show in this picture; ask is_hidden first")
    x0, y0, x1, y1 = seen.box
    return (x0 + x1) / 2, (y0 + y1) / 2


def in_camera(points: np.ndarray, camera: Camera) -> np.ndarray:
    """World points [..., 3] in the camera's axes (x right, y down, z forward), metres."""
    pose = np.asarray(camera.pose)
    return (np.asarray(points) - pose[:3, 3]) @ pose[:3, :3]


def lies_in(box: tuple[np.ndarray, np.ndarray], camera: Camera) -> bool:
    """Whether all of a box (centre and half its size) is before the camera, and would show in its picture."""
    centre, half = box
    x, y, z = in_camera(centre + half * list(product((-1, 1), repeat=3)), camera).T
    if camera.intrinsics is None or (z <= 0).any():
        return False
    (fx, _, cx), (_, fy, cy), _ = camera.intrinsics
    u, v = fx * x / z + cx, fy * y / z + cy
    return bool(min(u.min(), v.min()) >= 0 and u.max() <= camera.width - 1 and v.max() <= camera.height - 1)


def bearing(standing: Iterable[float], facing: Iterable[float], target: Iterable[float]) -> float:
    """Where `target` is for someone at `standing` who looks at `facing`, on the floor plan.

    Degrees in (-180, 180]: 0 straight ahead, positive to the left, ±180 straight behind (the z axis points up, so
    left is counter-clockwise seen from above).
    """
    (ax, ay), (bx, by), (cx, cy) = (tuple(p)[:2] for p in (standing, facing, target))
    forward, sight = (bx - ax, by - ay), (cx - ax, cy - ay)
    cross = forward[0] * sight[1] - forward[1] * sight[0]
    dot = forward[0] * sight[0] + forward[1] * sight[1]
    return math.degrees(math.atan2(cross, dot))


def side_of(angle: float) -> str | None:
    """ "left" or "right" for a bearing, None where it is too near straight ahead or behind."""
    if SIDE_MARGIN <= abs(angle) <= 180 - SIDE_MARGIN:
        return "left" if angle > 0 else "right"
    return None


def ahead_of(angle: float) -> str | None:
    """ "ahead" or "behind" for a bearing, None where it is rather to the side."""
    if abs(angle) <= 90 - AHEAD_MARGIN:
        return "ahead"
    return "behind" if abs(angle) >= 90 + AHEAD_MARGIN else None


def apart(a: SceneObject, b: SceneObject) -> bool:
    """Whether the two stand clear of each other on the floor plan, so that "from A to B" has a direction."""
    if a.position is None or b.position is None or a.extent is None or b.extent is None:
        return False
    offset = np.abs(np.subtract(a.position, b.position))[:2]
    reach = (np.asarray(a.extent) + np.asarray(b.extent))[:2] / 2
    return bool((offset > reach).any())


def travel(thing: SceneObject) -> float:
    """Metres between the start and the farthest point of an object's track, which must be known."""
    track = np.asarray(thing.track)
    return float(np.linalg.norm(track - track[0], axis=1).max())


def direction(record: SceneRecord, thing: SceneObject) -> str | None:
    """Which way an object sets out as the video's camera sees it: left, right, towards or away; None if none of them clearly.

    Until it first touches another object, if it does. What falls goes down, and has no direction here.
    """
    its = [relation for relation in record.relations if thing.id in (relation.subject, relation.object)]
    if not thing.track or not record.video_cameras:
        return None
    if any(relation.predicate == "falls_from" and relation.subject == thing.id for relation in its):
        return None
    moves = (relation.start or 0.0 for relation in its if relation.predicate == "moves")
    began = min(moves, default=0.0)
    touches = (relation.start or 0.0 for relation in its if relation.predicate == "hits")
    until = min((start for start in touches if start > began), default=math.inf)
    times = np.array([record.seconds(index) for index in range(len(thing.track))])
    track = np.asarray(thing.track)[times <= until]
    seen = in_camera(track, record.video_cameras[0])
    across, _, away = seen[-1] - seen[0]
    path = np.linalg.norm(np.diff(track[:, :2], axis=0), axis=1).sum()
    straight = np.linalg.norm(track[-1, :2] - track[0, :2])
    if straight < max(_TRAVEL, _STRAIGHTNESS * path):
        return None
    if abs(across) >= _DIRECTION_RATIO * abs(away):
        return "right" if across > 0 else "left"
    if abs(away) >= _DIRECTION_RATIO * abs(across):
        return "away" if away > 0 else "towards"
    return None
