# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""Procedural scenes: five layouts, their physics and their cameras, from a seed.

| layout    | what one picture tells                                             | video               |
|-----------|--------------------------------------------------------------------|---------------------|
| static    | nothing moves: objects on the floor, on a table, on each other     | camera fly-through  |
| ramp      | a ball on the slope will roll, and hit what stands in its way      | fixed camera        |
| edge      | what stands with its centre beyond the edge will fall              | fixed camera        |
| rolling   | nothing: a ball is rolling already, towards an object or past it   | fixed camera        |
| collision | nothing: two balls are rolling already, into each other or not     | fixed camera        |

A layout first chooses what shall happen, then draws things to that end; a draft whose physics disagrees, or whose
picture hides something, is drawn again. So the answers are balanced by design.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import mujoco
import numpy as np

from polyv.csqa.records import SPLITS, Split
from polyv.world import cameras
from polyv.world.physics import (
    FRAMES,
    MOVED,
    STILL,
    Motion,
    Thing,
    build_model,
    relations,
    simulate,
    vector,
)
from polyv.world.records import WorldRelation
from polyv.world.rendering import Look, Renderer


SHAPES = ("ball", "box", "cylinder", "cone")
COLOURS = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "black")
LAYOUTS = {"static": 0.36, "ramp": 0.22, "edge": 0.2, "rolling": 0.11, "collision": 0.11}  # their shares
INFERABLE_LAYOUTS = ("ramp", "edge")  # the first picture tells what will happen

NUM_VIEWS = 6
_HALF_SIZES = {"small": 0.15, "large": 0.25}  # metres, half the height of an object
_TRIES = 400
_PROBE = 56  # pixels: drafts are judged at this size, whatever size is rendered, so that size changes no scene
_MIN_PIXELS = 14  # at that size
_MIN_VISIBLE = {"object": 0.7, "furniture": 0.3}


@dataclass(frozen=True)
class Scene:
    """A finished scene. Poses are camera-to-world; `moved_pose` differs from `image_pose` by `camera_motion`."""

    split: Split
    seed: int
    index: int
    layout: str
    things: tuple[Thing, ...]
    model: mujoco.MjModel
    motion: Motion
    relations: tuple[WorldRelation, ...]
    look: Look
    image_pose: np.ndarray
    moved_pose: np.ndarray
    camera_motion: cameras.CameraMotion
    video_poses: tuple[np.ndarray, ...]
    view_poses: tuple[np.ndarray, ...]


@dataclass(frozen=True)
class _Draft:
    """Things of a layout along its own +x, azimuths (degrees from +x) from which its point shows, and whether the
    physics came out as meant."""

    things: tuple[Thing, ...]
    azimuths: tuple[float, float] = (0.0, 180.0)
    came_true: Callable[[Motion], bool] = lambda motion: bool(motion.displacement.max() < STILL)

    def draw_azimuth(self, rng: np.random.Generator) -> float:
        return float(np.deg2rad(rng.uniform(*self.azimuths)) * rng.choice([-1, 1]))


def build(split: Split, seed: int, index: int) -> Scene:
    """Scene number `index` of a split: the same for the same three arguments, different for any other.

    Raises:
        ValueError: an unknown split, or a seed or index outside 0 ... 2**32 - 1.
        RuntimeError: no draft came true in many tries; not seen in tens of thousands of scenes.
    """
    if split not in SPLITS:
        raise ValueError(f"split: got {split!r}, expected one of {', '.join(SPLITS)}.")
    for name, value in (("seed", seed), ("index", index)):
        if not 0 <= value < 2**32:  # SeedSequence would spread a larger number over two words, like two smaller ones
            raise ValueError(f"{name}: got {value}, expected a whole number from 0 to 2**32 - 1.")
    rng = np.random.default_rng(np.random.SeedSequence([SPLITS.index(split), seed, index]))
    # Drawn once, before any draft: else the fates and motions that fail more often would be rarer in the end.
    layout = str(rng.choice(list(LAYOUTS), p=list(LAYOUTS.values())))
    fate, camera_motion = rng.random(), list(cameras.MOTIONS)[rng.integers(len(cameras.MOTIONS))]
    for _ in range(_TRIES):
        draft = _DRAFTS[layout](rng, fate)
        if draft is None:
            continue
        yaw = rng.uniform(0, 2 * np.pi)
        things = tuple(thing.turned(yaw) for thing in draft.things)
        model = build_model(things)
        motion = simulate(model, things)
        if not draft.came_true(motion) or _is_borderline(motion):
            continue
        look = Look.draw(rng)
        renderer = Renderer(model, things, look)
        poses = _place_cameras(renderer, motion, yaw + draft.draw_azimuth(rng), camera_motion, layout == "static", rng)
        if poses is not None:
            return Scene(
                split=split,
                seed=seed,
                index=index,
                layout=layout,
                things=things,
                model=model,
                motion=motion,
                relations=relations(things, motion),
                look=look,
                camera_motion=camera_motion,
                **poses,
            )
    raise RuntimeError(f"scene {index} of {split} with seed {seed}: no {layout} layout came out in {_TRIES} tries.")


def _is_borderline(motion: Motion) -> bool:
    return bool(((motion.displacement >= STILL) & (motion.displacement < MOVED)).any())


# --- cameras -------------------------------------------------------------------------------------------------------


def _place_cameras(renderer, motion, azimuth, camera_motion, flies, rng) -> dict | None:
    """All poses of a scene, or None where a picture would hide something."""
    content = np.concatenate([thing.outline() for thing in renderer.things])
    middle = (content.min(axis=0) + content.max(axis=0)) / 2
    paths = motion.frame_tracks.reshape(-1, 3)
    reach = np.linalg.norm(content - middle, axis=1).max() * 1.15  # what rolls further away leaves the picture
    seen = np.concatenate([content, paths[np.linalg.norm(paths - middle, axis=1) < reach]])
    image_pose = cameras.frame_content(seen, azimuth, np.deg2rad(rng.uniform(17, 38)))
    data = renderer.pose_things(motion.states[0])
    if not _shows_all(renderer, data, image_pose, _MIN_VISIBLE):
        return None
    moved_pose = cameras.move(image_pose, camera_motion, float(np.linalg.norm(image_pose[:3, 3] - middle)))
    if not cameras.is_above_floor(moved_pose) or not _shows_all(renderer, data, moved_pose, {"object": 0.25}):
        return None
    video_poses = cameras.fly_through(content, FRAMES, rng) if flies else [image_pose] * FRAMES
    if flies and not _reveals_all(renderer, data, video_poses):
        return None
    return {
        "image_pose": image_pose,
        "moved_pose": moved_pose,
        "video_poses": tuple(video_poses),
        "view_poses": tuple(cameras.ring(content, NUM_VIEWS, rng)),
    }


def _shows_all(renderer: Renderer, data, pose: np.ndarray, limits: dict[str, float]) -> bool:
    pixels, visible = renderer.visibility(data, cameras.camera(pose, _PROBE))
    for thing, count, fraction in zip(renderer.things, pixels, visible, strict=True):
        limit = limits.get("furniture" if thing.is_furniture else "object", 0.0)
        if fraction < limit or count < _MIN_PIXELS * (limit > 0):
            return False
    return True


def _reveals_all(renderer: Renderer, data, poses: list[np.ndarray]) -> bool:
    """Every object shows well in at least two of every second frame, and not all of them in all frames."""
    visible = np.stack([renderer.visibility(data, cameras.camera(pose, _PROBE))[1] for pose in poses[::2]])
    objects = [number for number, thing in enumerate(renderer.things) if not thing.is_furniture]
    shown = visible[:, objects]
    return bool(((shown > 0.6).sum(axis=0) >= 2).all() and (shown[0] < 0.2).any() and (shown[0] > 0.6).any())


# --- drawing things ------------------------------------------------------------------------------------------------


class _Names:
    """Deals out objects whose (colour, shape) names differ, and numbers them."""

    def __init__(self, rng: np.random.Generator):
        self.rng = rng
        self.used: set[tuple[str, str]] = set()

    def draw(self, position, shapes=SHAPES, sizes=("small", "large"), above=0.0, support=None, **more) -> Thing:
        """One more object standing at `position` (x, y), `above` metres over the floor."""
        rng = self.rng
        shape, size = str(rng.choice(shapes)), str(rng.choice(sizes))
        free = [colour for colour in COLOURS if (colour, shape) not in self.used]
        colour = str(rng.choice(free))
        self.used.add((colour, shape))
        half = half_size(shape, _HALF_SIZES[size])
        if shape == "box" and "rotation" not in more:
            turn = rng.uniform(0, np.pi / 4)
            more["rotation"] = (float(np.cos(turn)), 0.0, 0.0, float(np.sin(turn)))
        place = (float(position[0]), float(position[1]), above + half[2])
        name = f"object_{len(self.used) - 1}"
        return Thing(name, shape, colour, size, half, place, support=support, **more)


def half_size(shape: str, scale: float) -> tuple[float, float, float]:
    """Half the size of an object along its own axes, so that all shapes look equally big."""
    across = {"ball": 1.0, "box": 0.88, "cylinder": 0.75, "cone": 1.0}[shape] * scale
    upward = {"ball": 1.0, "box": 0.88, "cylinder": 1.0, "cone": 1.1}[shape] * scale
    return (across, across, upward)


def _radius(thing: Thing) -> float:
    """Of the circle that holds its footprint."""
    return thing.half[0] if thing.category in ("ball", "cylinder", "cone") else float(np.hypot(*thing.half[:2]))


def _scatter(rng, names, count, spread, taken, gap=0.12, keep_off: Callable[..., bool] = lambda thing: False, **more):
    """Up to `count` more objects on the floor within `spread` (half widths of a rectangle around `centre`)."""
    centre = np.array(more.pop("centre", (0.0, 0.0)))
    placed: list[Thing] = []
    for _ in range(count):
        for _ in range(30):
            used = set(names.used)
            thing = names.draw(centre + rng.uniform(-1, 1, 2) * spread, **more)
            near = any(
                np.hypot(*np.subtract(thing.position[:2], other.position[:2])) < _radius(thing) + _radius(other) + gap
                for other in (*taken, *placed)
            )
            if not near and not keep_off(thing):
                placed.append(thing)
                break
            names.used = used
    return placed


def _table(position, half_x, half_y, height) -> Thing:
    return Thing("table", "table", "brown", "large", (half_x, half_y, height / 2), (*position, height / 2))


# --- the five layouts ----------------------------------------------------------------------------------------------


def _static(rng: np.random.Generator, fate: float) -> _Draft | None:
    names, count = _Names(rng), 3 + int(3 * fate)
    things: list[Thing] = []
    if rng.random() < 0.4:
        table = _table(
            rng.uniform(-0.3, 0.3, 2), rng.uniform(0.35, 0.5), rng.uniform(0.3, 0.4), rng.uniform(0.35, 0.5)
        )
        things.append(table)
        for side in (-1, 1)[: int(rng.integers(1, 3))]:
            place = (table.position[0] + side * table.half[0] * 0.55, table.position[1] + rng.uniform(-0.05, 0.05))
            things.append(names.draw(place, sizes=("small",), above=2 * table.half[2], support="table"))
    elif rng.random() < 0.5:
        base = names.draw(rng.uniform(-0.5, 0.5, 2), shapes=("box", "cylinder"), sizes=("large",))
        top = names.draw(base.position[:2], sizes=("small",), above=2 * base.half[2], support=base.id)
        things += [base, top]
    left = count - len(names.used)
    things += _scatter(rng, names, left, (0.95, 0.95), [thing for thing in things if thing.support is None])
    return _Draft(tuple(things)) if len(names.used) == count else None


def _ramp(rng: np.random.Generator, fate: float) -> _Draft | None:
    names = _Names(rng)
    plan = ("hits", "rolls", "flat", "grips")[int(np.searchsorted((0.34, 0.56, 0.75), fate, side="right"))]
    slope, height, plateau = np.deg2rad(rng.uniform(20, 28)), rng.uniform(0.42, 0.55), rng.uniform(0.48, 0.6)
    length, width = plateau + height / np.tan(slope), rng.uniform(0.6, 0.75)
    ramp = Thing(
        "ramp", "ramp", "grey", "large", (length / 2, width / 2, height / 2), (0, 0, height / 2), plateau=plateau
    )
    shapes = ("ball",) if plan != "grips" else ("box", "cylinder", "cone")
    rider = names.draw((0, 0), shapes=shapes, sizes=("small", "large") if plan != "flat" else ("small",))
    if plan == "flat":
        rider = replace(rider, position=(-length / 2 + plateau / 2, 0.0, height + rider.half[2]), support="ramp")
    else:
        rider = _stand_on_slope(rider, -length / 2 + plateau, length / 2, height, slope, rng.uniform(0.22, 0.45))
    foot, lane = length / 2, rider.half[0]
    things, targets = [ramp, rider], []
    if plan == "hits" or (plan != "rolls" and rng.random() < 0.5):
        targets = [names.draw((foot + rng.uniform(0.4, 0.7), rng.uniform(-0.3, 0.3) * lane))]
        things += targets
    aside = _scatter(
        rng,
        names,
        int(rng.integers(1, 3)) + (not targets),
        (length / 2 + 0.2, 1.0),
        [rider, *targets],
        centre=(foot / 2 + 0.2, 0.0),
        keep_off=lambda thing: abs(thing.position[1]) - _radius(thing) < max(lane, width / 2) + 0.1,
    )
    if not aside:
        return None

    def came_true(motion: Motion) -> bool:
        hits = [pair for pair in motion.contacts if motion.contacts[pair][0] > 0 and pair[0] > 0]
        if plan == "hits":
            return motion.displacement[1] > 0.5 and hits[:1] == [(1, 2)] and motion.contacts[1, 2][0] < 330
        return (motion.displacement[1] > 0.5) == (plan == "rolls") and not hits

    return _Draft((*things, *aside), (25.0, 115.0), came_true)


def _stand_on_slope(thing: Thing, top: float, foot: float, height: float, slope: float, share: float) -> Thing:
    """`thing` resting on a slope that descends from x = `top` to x = `foot`, `share` of the way down."""
    x, z = top + share * (foot - top), height * (1 - share)
    rise = thing.half[2]
    centre = (x + rise * np.sin(slope), 0.0, z + rise * np.cos(slope))
    tilt = (float(np.cos(slope / 2)), 0.0, float(np.sin(slope / 2)), 0.0)
    return replace(thing, position=vector(centre), rotation=tilt, support="ramp")


def _edge(rng: np.random.Generator, fate: float) -> _Draft | None:
    names, falls = _Names(rng), fate < 0.5
    things: list[Thing] = []
    if rng.random() < 0.65:
        base = _table((0.0, 0.0), rng.uniform(0.4, 0.55), rng.uniform(0.3, 0.4), rng.uniform(0.45, 0.65))
        sizes: tuple[str, ...] = ("small", "large")
    else:
        base = replace(names.draw((0.0, 0.0), shapes=("box",), sizes=("large",)), rotation=(1.0, 0.0, 0.0, 0.0))
        sizes = ("small",)
    top = 2 * base.half[2]
    rider = names.draw((0.0, 0.0), sizes=sizes, above=top, support=base.id, rotation=(1.0, 0.0, 0.0, 0.0))
    beyond = rng.uniform(0.3, 0.55) if falls else -rng.uniform(0.35, 0.9)
    x = base.half[0] + beyond * rider.half[0]
    y = rng.uniform(-0.5, 0.5) * (base.half[1] - 0.1)
    rider = replace(rider, position=(x, y, rider.position[2]))
    things += [base, rider]
    if base.category == "table" and x - rider.half[0] > -0.02 and rng.random() < 0.5:
        inner = names.draw((-base.half[0] * 0.55, 0.0), sizes=("small",), above=top, support=base.id)
        things.append(inner)
    floor = _scatter(rng, names, int(rng.integers(1, 4)), (1.0, 0.9), [base], gap=0.05, centre=(0.35, 0.0))
    if not floor:
        return None

    def came_true(motion: Motion) -> bool:
        fell = motion.tracks[0, 1, 2] - motion.tracks[-1, 1, 2] > 0.2
        return fell == falls and (falls or motion.displacement.max() < STILL) and motion.displacement[0] < STILL

    return _Draft((*things, *floor), (25.0, 105.0), came_true)


def _rolling(rng: np.random.Generator, fate: float) -> _Draft | None:
    names, hits = _Names(rng), fate < 0.5
    speed, start = rng.uniform(1.0, 1.6), rng.uniform(0.75, 1.0)
    ball = names.draw((-start, 0.0), shapes=("ball",), velocity=(speed, 0.0, 0.0))
    targets = [names.draw((rng.uniform(-0.1, 0.4), rng.uniform(-0.3, 0.3) * ball.half[0]))] if hits else []
    aside = _scatter(
        rng,
        names,
        int(rng.integers(1, 3)) + (not hits),
        (0.9, 0.9),
        [ball, *targets],
        keep_off=lambda thing: abs(thing.position[1]) - _radius(thing) < ball.half[0] + 0.2,
    )
    if not aside:
        return None

    def came_true(motion: Motion) -> bool:
        touched = list(motion.contacts)
        return touched[:1] == [(0, 1)] and motion.contacts[0, 1][0] < 300 if hits else not touched

    return _Draft((ball, *targets, *aside), came_true=came_true)


def _collision(rng: np.random.Generator, fate: float) -> _Draft | None:
    names, collide = _Names(rng), fate < 0.5
    crossing = np.deg2rad(rng.uniform(60, 180))  # between their directions
    speeds, time = rng.uniform(0.8, 1.3, 2), rng.uniform(0.5, 0.75)
    late = 0.0 if collide else rng.choice([-1, 1]) * rng.uniform(0.5, 0.7) * np.ptp([0, speeds.min()])
    aside = 0.0 if collide else rng.choice([-1, 1]) * rng.uniform(0.3, 0.5)
    balls = []
    for speed, angle, shift, back in ((speeds[0], 0.0, aside, 0.0), (speeds[1], crossing, 0.0, late)):
        along = np.array([np.cos(angle), np.sin(angle)])
        place = -along * (speed * time + back) + shift * np.array([-along[1], along[0]])
        velocity = (float(along[0] * speed), float(along[1] * speed), 0.0)
        balls.append(names.draw(place, shapes=("ball",), velocity=velocity))
    others = _scatter(rng, names, int(rng.integers(0, 3)), (0.9, 0.9), balls, gap=0.25)

    def came_true(motion: Motion) -> bool:
        touched = list(motion.contacts)
        return touched[:1] == [(0, 1)] and motion.contacts[0, 1][0] < 300 if collide else not touched

    return _Draft((*balls, *others), came_true=came_true)


_DRAFTS: dict[str, Callable[[np.random.Generator, float], _Draft | None]] = {
    "static": _static,
    "ramp": _ramp,
    "edge": _edge,
    "rolling": _rolling,
    "collision": _collision,
}
