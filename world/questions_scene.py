# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""Questions on a scene's posed RGB-D views: what is where, seen by nobody, by someone inside, and by who walks there."""

import numpy as np

from polyv.csqa.sight import ahead_of, apart, bearing, is_clear, is_hidden, side_of
from polyv.csqa.templates import ORDINALS
from polyv.world.questions_image import bearings, nearer, nearest_shape_to
from polyv.world.records import WorldObject
from polyv.world.sightings import Sight, is_furniture
from polyv.world.templates import Found, Template, colour, nearest_of


# Metres: an object whose underside is lower stands on the floor.
_ON_FLOOR = 0.03
# Metres between a straight path and what surely does not touch it.
_CLEARANCE = 0.12


def closest_colour(sight: Sight, _: np.random.Generator) -> list[Found]:
    """The colour of the object closest to another one."""
    return [Found({"name": thing.name}, colour(closest)) for thing, closest in _closest(sight)]


def closest_shape(sight: Sight, _: np.random.Generator) -> list[Found]:
    """The shape of the object closest to another one."""
    return [Found({"name": thing.name}, closest.category) for thing, closest in _closest(sight)]


def _closest(sight: Sight) -> list[tuple[WorldObject, WorldObject]]:
    """Each object with the one closest to it, where all are in view, none is a near tie, and no table or ramp, which
    some call an object, is closer still."""
    things = sight.countable("scene") or []
    pairs = []
    for thing in things:
        others = [other for other in (*things, *sight.furniture) if other is not thing]
        closest = nearest_of(others, lambda a, b, to=thing: sight.nearer(a, b, to))  # type: ignore[misc]
        if closest is not None and not is_furniture(closest):
            pairs.append((thing, closest))
    return pairs


def scene_nearer(sight: Sight, rng: np.random.Generator) -> list[Found]:
    """Which of two is nearer to a third."""
    return nearer(sight, rng, medium="scene")


def standing_side(sight: Sight, _: np.random.Generator) -> list[Found]:
    """On which hand something is for someone who stands at one object and faces another."""
    return [
        Found({"standing": a.name, "facing": b.name, "target": c.name}, side)
        for a, b, c in bearings(sight, "scene")
        if (side := side_of(bearing(a.position, b.position, c.position)))
    ]


def standing_ahead(sight: Sight, _: np.random.Generator) -> list[Found]:
    """Whether something is ahead of or behind someone who stands at one object and faces another."""
    return [
        Found({"standing": a.name, "facing": b.name, "target": c.name}, where)
        for a, b, c in bearings(sight, "scene")
        if (where := ahead_of(bearing(a.position, b.position, c.position)))
    ]


def turn(sight: Sight, _: np.random.Generator) -> list[Found]:
    """Which way to turn at one object, reached from the first camera, to go on to another."""
    start = np.asarray(sight.record.view_cameras[0].pose)[:3, 3]
    things = sight.clear_in("scene")
    found = []
    for a in things:
        beyond = 2 * np.asarray(a.position) - start  # keeps the walking direction
        for b in things:
            if a is not b and apart(a, b):
                side = side_of(bearing(a.position, beyond, b.position))
                found += [Found({"via": a.name, "target": b.name}, side)] if side else []
    return found


def seen_in_view(sight: Sight, _: np.random.Generator) -> list[Found]:
    """Whether an object of the scene shows in one of the views: clearly, or not at all. A box seldom hides wholly, a
    cone easily: answers are kept level for each shape apart."""
    cameras = sight.record.view_cameras
    found = []
    for thing in sight.clear_in("scene"):
        for number, (look, camera) in enumerate(zip(thing.in_views, cameras, strict=True)):
            if is_hidden(look) or is_clear(look, camera):
                slots = {"name": thing.name, "ordinal": ORDINALS[number]}
                found.append(Found(slots, "no" if is_hidden(look) else "yes", given=thing.category))
    return found


def reach(sight: Sight, _: np.random.Generator) -> list[Found]:
    """Whether the straight way along the floor from one object to another is free of all others."""
    found = []
    solid = sight.clear_in("scene")
    if len(solid) < len(sight.solids):
        return []
    for i, a in enumerate(solid):
        for b in solid[i + 1 :]:
            if not (_stands_on_floor(a) and _stands_on_floor(b) and apart(a, b)):
                continue
            blocks = [_blocks(other, a, b) for other in sight.objects if other is not a and other is not b]
            if True in blocks:
                found.append(Found({"first": a.name, "second": b.name}, "no"))
            elif None not in blocks:
                found.append(Found({"first": a.name, "second": b.name}, "yes"))
    return found


def _stands_on_floor(thing: WorldObject) -> bool:
    return thing.position[2] - thing.extent[2] / 2 < _ON_FLOOR


def _blocks(other: WorldObject, a: WorldObject, b: WorldObject) -> bool | None:
    """Whether `other` stands on the line from `a` to `b` for sure (its middle half does), surely not (a clearance
    remains even for the wider of the two), or neither (None)."""
    if not _stands_on_floor(other):
        return False
    start, end, centre = (np.asarray(thing.position)[:2] for thing in (a, b, other))
    along = end - start
    share = float(np.clip((centre - start) @ along / (along @ along), 0, 1))
    distance = float(np.linalg.norm(start + share * along - centre))
    radius = min(other.extent[:2]) / 2
    if distance < 0.5 * radius:
        return True
    wide = max(max(a.extent[:2]), max(b.extent[:2])) / 2 + float(np.linalg.norm(other.extent[:2])) / 2
    return False if distance > wide + _CLEARANCE else None


def nearest_shape(sight: Sight, _: np.random.Generator) -> list[Found]:
    """The shape of the object nearest to the first camera."""
    return nearest_shape_to(np.asarray(sight.record.view_cameras[0].pose)[:3, 3], sight, "scene")


SCENE_QA = (
    Template(
        "scene_qa",
        "closest_colour",
        "scene",
        (
            "What colour is the object closest to the {name}?",
            "What is the colour of the object nearest to the {name}?",
        ),
        closest_colour,
    ),
    Template(
        "scene_qa",
        "closest_shape",
        "scene",
        ("What shape is the object closest to the {name}?", "What is the shape of the object nearest to the {name}?"),
        closest_shape,
    ),
    Template(
        "scene_qa",
        "scene_nearer",
        "scene",
        (
            "What colour is the one nearer to the {target}, the {first} or the {second}?",
            "Of the {first} and the {second}, what colour is the one that stands nearer to the {target}?",
        ),
        scene_nearer,
    ),
)

SITUATED_QA = (
    Template(
        "situated_qa",
        "standing_side",
        "scene",
        (
            "Standing at the {standing} and facing the {facing}, is the {target} on your left or on your right?",
            "You stand at the {standing} and look at the {facing}. On which hand is the {target}, left or right?",
        ),
        standing_side,
    ),
    Template(
        "situated_qa",
        "standing_ahead",
        "scene",
        (
            "Standing at the {standing} and facing the {facing}, is the {target} ahead of you or behind you?",
            "You stand at the {standing} and look at the {facing}. Is the {target} ahead or behind?",
        ),
        standing_ahead,
    ),
)

EMBODIED_QA = (
    Template(
        "embodied_qa",
        "turn",
        "scene",
        (
            "You walk from where the first view was taken to the {via}. To go on to the {target}, do you turn left or right?",
            "From the first camera you go straight to the {via}. Which way do you turn there to reach the {target}?",
        ),
        turn,
    ),
    Template(
        "embodied_qa",
        "seen_in_view",
        "scene",
        (
            "Do you see the {name} in the {ordinal} view?",
            "Is the {name} seen from where the {ordinal} view was taken?",
        ),
        seen_in_view,
    ),
    Template(
        "embodied_qa",
        "reach",
        "scene",
        (
            "Can you walk in a straight line from the {first} to the {second} without bumping into another object?",
            "Is the straight way from the {first} to the {second} free?",
        ),
        reach,
    ),
    Template(
        "embodied_qa",
        "nearest_shape",
        "scene",
        (
            "What shape is the object nearest to where the first view was taken?",
            "You stand where the first view was taken. What shape is the object nearest to you?",
        ),
        nearest_shape,
    ),
)
