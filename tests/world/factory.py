# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""Scene graphs made by hand or at random, without physics or rendering: boxes are projected with the cameras.

Written apart from `polyv.world`'s geometry on purpose, so that a mirrored left and right would not agree with it.
"""

from dataclasses import dataclass, replace

import numpy as np

from polyv.world.records import Appearance, Camera, WorldMedia, WorldObject, WorldRecord, WorldRelation


SIZE, FRAMES, FPS = 112, 16, 8.0
COLOURS = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "black")
SHAPES = ("ball", "box", "cylinder", "cone")
HOME = (0.0, -4.0, 2.0)  # where the image camera stands; it looks at the origin, so that +x is to the right
_MOTIONS = {"left": (0, -1), "right": (0, 1), "up": (1, -1), "down": (1, 1), "forward": (2, 1), "backward": (2, -1)}


@dataclass(frozen=True)
class Thing:
    """An object to put into a record: at rest, or going straight by `step` metres a frame up to frame `until`."""

    colour: str
    category: str
    position: tuple[float, float, float]
    side: float = 0.4
    step: tuple[float, float, float] = (0.0, 0.0, 0.0)
    until: int = FRAMES
    visible: float = 1.0
    size: str = "large"


def camera(eye, target=(0.0, 0.0, 0.0)) -> Camera:
    """An upright camera at `eye` looking at `target`."""
    z = np.subtract(target, eye) / np.linalg.norm(np.subtract(target, eye))
    x = np.cross(z, (0, 0, 1))
    x = x / np.linalg.norm(x)
    pose = np.eye(4)
    pose[:3] = np.stack([x, np.cross(z, x), z, eye], axis=1)
    return _camera(pose)


def _camera(pose: np.ndarray) -> Camera:
    focal, middle = 1.1 * SIZE, SIZE / 2
    intrinsics = ((focal, 0.0, middle), (0.0, focal, middle), (0.0, 0.0, 1.0))
    return Camera(pose=tuple(map(tuple, pose.tolist())), intrinsics=intrinsics, width=SIZE, height=SIZE)


def project(point, view: Camera) -> tuple[float, float, float]:
    """(x, y) in pixels and depth in metres of a world point."""
    matrix = np.array(view.intrinsics) @ np.linalg.inv(np.array(view.pose))[:3]
    x, y, depth = matrix @ np.append(point, 1.0)
    return x / depth, y / depth, depth


def appearance(position, side: float, view: Camera, visible: float = 1.0) -> Appearance:
    """How a ball of that diameter shows."""
    x, y, depth = project(position, view)
    radius = side / 2 * view.intrinsics[0][0] / max(depth, 1e-6)
    box = (max(x - radius, 0.0), max(y - radius, 0.0), min(x + radius, SIZE - 1.0), min(y + radius, SIZE - 1.0))
    if depth <= 0 or visible == 0 or box[0] >= box[2] or box[1] >= box[3]:
        return Appearance(box=None, visible=0.0)
    return Appearance(box=box, visible=visible)


def record(
    things: list[Thing],
    relations: tuple[WorldRelation, ...] = (),
    index: int = 0,
    motion: str = "left",
    flies: bool = False,
    split: str = "train",
) -> WorldRecord:
    """A scene graph of things; the ids are "object_0", "object_1", … in their order."""
    home = camera(HOME)
    axis, sign = _MOTIONS[motion]
    moved_pose = np.array(home.pose)
    moved_pose[:3, 3] += 0.6 * sign * moved_pose[:3, axis]
    moved = _camera(moved_pose)
    path = [camera((-3.0 + 0.4 * i, -3.0, 1.5), (-3.0 + 0.4 * i, 0.0, 0.0)) for i in range(FRAMES)]
    videos = path if flies else [home] * FRAMES
    views = [camera((4 * np.sin(a), -4 * np.cos(a), 2.5)) for a in np.linspace(0, 2 * np.pi, 6, endpoint=False)]
    objects = []
    for number, thing in enumerate(things):
        gone = [np.multiply(thing.step, min(i, thing.until)) for i in range(FRAMES)]
        track = [tuple(float(v) for v in np.add(thing.position, step)) for step in gone]

        def show(view: Camera, at=thing.position, thing: Thing = thing) -> Appearance:
            return appearance(at, thing.side, view, thing.visible)

        objects.append(
            WorldObject(
                id=f"object_{number}",
                category=thing.category,
                attributes={"colour": thing.colour, "size": thing.size},
                position=thing.position,
                extent=(thing.side,) * 3,
                track=tuple(track),
                in_image=show(home),
                in_moved=show(moved),
                in_video=tuple(show(view, at) for view, at in zip(videos, track, strict=True)),
                in_views=tuple(show(view) for view in views),
            )
        )
    folder = f"scenes/{index:06d}"
    return WorldRecord(
        scene_id=f"{index:06d}",
        split=split,  # type: ignore[arg-type]
        seed=0,
        layout="static" if flies else "rolling",
        fps=FPS,
        objects=tuple(objects),
        relations=relations,
        media=WorldMedia(
            image=f"{folder}/image.png",
            moved=f"{folder}/moved.png",
            video=f"{folder}/video.mp4",
            scene=f"{folder}/scene",
        ),
        image_camera=home,
        moved_camera=moved,
        camera_motion=motion,  # type: ignore[arg-type]
        video_cameras=tuple(videos),
        view_cameras=tuple(views),
    )


def random_record(index: int, split: str = "train") -> WorldRecord:
    """A random scene: two in five static with a fly-through, the others with one or two things that move, fall or
    roll down. What happens is drawn, not simulated."""
    rng = np.random.default_rng([index, len(split)])
    all_names = [(colour, shape) for colour in COLOURS[1:] for shape in SHAPES]
    # The first is what moves or lies on furniture: often a red ball.
    first = ("red", "ball" if rng.random() < 0.6 else str(rng.choice(SHAPES)))
    names = [first, *rng.permutation(all_names)[: rng.integers(2, 5)]]
    places: list[np.ndarray] = []
    while len(places) < len(names):
        place = rng.uniform(-1.3, 1.3, 2)
        if all(np.linalg.norm(place - other) > 0.7 for other in places):
            places.append(place)
    things = [
        Thing(str(colour), str(shape), (float(x), float(y), 0.2), size=str(rng.choice(["small", "large"])))
        for (colour, shape), (x, y) in zip(names, places, strict=True)
    ]
    motion = str(rng.choice(list(_MOTIONS)))
    if rng.random() < 0.4:
        return record(things, index=index, motion=motion, flies=True, split=split)
    event = str(rng.choice(["hits", "falls", "rolls", "stays", "goes"]))
    relations: tuple[WorldRelation, ...] = ()
    if event in ("falls", "stays", "rolls"):
        category = "ramp" if event == "rolls" or rng.random() < 0.5 else "table"
        furniture = Thing("brown", category, (0.0, 1.6, 0.25), 0.5)
        things[0] = replace(things[0], position=(0.0, 1.6, 0.7))
        relations = (WorldRelation(subject="object_0", predicate="on", object=f"object_{len(things)}"),)
        things.append(furniture)
    if event != "stays":
        angle = rng.uniform(0, 2 * np.pi)
        things[0] = replace(things[0], step=(0.05 * np.cos(angle), 0.05 * np.sin(angle), 0.0))
        relations += (_event("moves", None, 0.0),)
    if event == "falls":
        relations += (_event("falls_from", f"object_{len(things) - 1}", 0.3),)
    if event == "rolls":
        relations += (_event("rolls_down", f"object_{len(things) - 1}", 0.1),)
    if event == "hits" or (event == "rolls" and rng.random() < 0.5):
        relations += (_event("hits", "object_1", 1.0),)
        way = np.subtract(things[1].position, things[0].position)[:2]
        x, y = way * (1 - things[1].side / np.linalg.norm(way)) / FPS  # touches it after a second, and stays there
        things[0] = replace(things[0], step=(x, y, 0.0), until=int(FPS))
    return record(things, relations, index, motion, split=split)


def _event(predicate: str, target: str | None, start: float) -> WorldRelation:
    return WorldRelation(subject="object_0", predicate=predicate, object=target, start=start, end=start + 0.5)  # type: ignore[arg-type]
