# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""Questions on one image (where things are, what will happen) and on two images (how the camera moved).

What will happen is asked only where the picture tells it: a ball on a ramp, an object over a table's edge. A ball that
rolls along the floor from the start looks like one at rest, so nothing is asked of it.
"""

import numpy as np

from polyv.csqa.sight import apart, bearing, box_centre, is_clear, is_hidden, side_of
from polyv.world.records import WorldObject
from polyv.world.sightings import Sight
from polyv.world.templates import Found, Template, colour, nearest_of, which_of_two


# Of the picture's width: how far an object's box must shift between two images, and how much more than the other way.
_SHIFT = 0.05
_SHIFT_RATIO = 2.0
# How much longer a box's side must be in one of two images to look bigger.
_GROWTH = 1.15
# Of the picture's width: a box this near the border may be cut off.
_BORDER = 0.02


def closer_to_camera(sight: Sight, rng: np.random.Generator) -> list[Found]:
    """Which of two is closer to the camera."""
    eye = np.asarray(sight.record.image_camera.pose)[:3, 3]
    return which_of_two(sight.clear_in("image"), lambda a, b: sight.nearer_to_point(a, b, eye), rng)


def closest_shape(sight: Sight, _: np.random.Generator) -> list[Found]:
    """The shape of the object closest to the camera, all objects being in doubtless view."""
    eye = np.asarray(sight.record.image_camera.pose)[:3, 3]
    return nearest_shape_to(eye, sight, "image")


def nearest_shape_to(eye: np.ndarray, sight: Sight, medium: str) -> list[Found]:
    """The shape of the object nearest to a point, unless a table or ramp, which some call an object, is nearer."""
    things = sight.countable(medium)
    nearest = (
        nearest_of([*things, *sight.furniture], lambda a, b: sight.nearer_to_point(a, b, eye)) if things else None
    )
    return [Found({}, nearest.category)] if nearest in sight.solids else []


def nearer(sight: Sight, rng: np.random.Generator, *, medium: str = "image") -> list[Found]:
    """Which of two is nearer to a third, in space."""
    found = []
    for target in sight.clear_in(medium):
        others = [thing for thing in sight.clear_in(medium) if thing is not target]
        for pair in which_of_two(others, lambda a, b, to=target: sight.nearer(a, b, to), rng):  # type: ignore[misc]
            found.append(Found({**pair.slots, "target": target.name}, pair.answer))
    return found


def seen_from(sight: Sight, _: np.random.Generator) -> list[Found]:
    """On which side something is for another object that looks at a third one."""
    return [
        Found({"standing": a.name, "facing": b.name, "target": c.name}, side)
        for a, b, c in bearings(sight, "image")
        if (side := side_of(bearing(a.position, b.position, c.position)))
    ]


def bearings(sight: Sight, medium: str) -> list[tuple[WorldObject, WorldObject, WorldObject]]:
    """All (standing, facing, target) whose directions on the floor plan are well defined."""
    things = sight.clear_in(medium)
    return [
        (a, b, c)
        for a in things
        for b in things
        for c in things
        if a is not b and c is not a and c is not b and apart(a, b) and apart(a, c)
    ]


def camera_motion(sight: Sight, _: np.random.Generator) -> list[Found]:
    """Which way the camera moved between the two images."""
    both = [t for t in sight.clear_in("image") if is_clear(t.in_moved, sight.record.moved_camera)]
    return [Found({}, sight.record.camera_motion)] if both else []


def shift(sight: Sight, _: np.random.Generator) -> list[Found]:
    """Which way an object's place in the picture changes."""
    found = []
    for thing in sight.clear_in("image"):
        if not is_clear(thing.in_moved, sight.record.moved_camera):
            continue
        dx, dy = np.subtract(box_centre(thing.in_moved), box_centre(thing.in_image)) / sight.record.image_camera.width
        if max(abs(dx), abs(dy)) < _SHIFT:
            continue
        if abs(dx) >= _SHIFT_RATIO * abs(dy):
            found.append(Found({"name": thing.name}, "right" if dx > 0 else "left"))
        elif abs(dy) >= _SHIFT_RATIO * abs(dx):
            found.append(Found({"name": thing.name}, "down" if dy > 0 else "up"))
    return found


def size_change(sight: Sight, _: np.random.Generator) -> list[Found]:
    """Whether an object looks bigger or smaller in the second image; it may not be cut off in either."""
    found = []
    for thing in sight.clear_in("image"):
        if not is_clear(thing.in_moved, sight.record.moved_camera):
            continue
        before, after = thing.in_image.box, thing.in_moved.box
        if before is None or after is None or _is_cut(before, sight) or _is_cut(after, sight):
            continue
        growth = [(after[i + 2] - after[i]) / (before[i + 2] - before[i]) for i in (0, 1)]
        if min(growth) >= _GROWTH:
            found.append(Found({"name": thing.name}, "bigger"))
        elif max(growth) <= 1 / _GROWTH:
            found.append(Found({"name": thing.name}, "smaller"))
    return found


def _is_cut(box: tuple[float, float, float, float], sight: Sight) -> bool:
    width = sight.record.image_camera.width
    return min(box) < _BORDER * width or max(box) > (1 - _BORDER) * width


def will_fall(sight: Sight, _: np.random.Generator) -> list[Found]:
    """Whether an object that stands on a table or on another object will fall off it."""
    falling = {thing.id for thing, _, _ in sight.related("falls_from")}
    return [
        Found({"name": thing.name}, "yes" if thing.id in falling else "no", given=thing.category)
        for thing, under in _carried(sight)
        if under.category != "ramp" and not any(target is thing for _, target, _ in sight.related("hits"))
    ]


def will_roll(sight: Sight, _: np.random.Generator) -> list[Found]:
    """Whether the object on a ramp will roll down. Its name is not said: "ball" would be half the answer."""
    rolling = {thing.id for thing, _, _ in sight.related("rolls_down")}
    riders = [thing for thing, under in _carried(sight) if under.category == "ramp"]
    return [Found({}, "yes" if riders[0].id in rolling else "no")] if len(riders) == 1 else []


def will_hit(sight: Sight, _: np.random.Generator) -> list[Found]:
    """The colour of what a ball on a ramp will hit first, or "nothing" (it may also stay where it is)."""
    clear = sight.clear_in("image")
    return [
        Found({"name": ball.name}, colour(hits[0]) if hits else "nothing")
        for ball, hits in _balls_on_ramps(sight)
        if all(target in clear for target in hits)
    ]


def will_hit_it(sight: Sight, _: np.random.Generator) -> list[Found]:
    """Whether a ball on a ramp will hit a given object: its first hit, or one that is never hit by anything. What
    stands in the way is most often a cylinder: answers are kept level for each shape apart."""
    found = []
    for ball, hits in _balls_on_ramps(sight):
        for thing in sight.clear_in("image"):
            if hits and thing is hits[0]:
                found.append(Found({"name": ball.name, "target": thing.name}, "yes", given=thing.category))
            elif thing is not ball and all(thing not in (a, b) for a, b, _ in sight.related("hits")):
                found.append(Found({"name": ball.name, "target": thing.name}, "no", given=thing.category))
    return found


def _carried(sight: Sight) -> list[tuple[WorldObject, WorldObject]]:
    """(object, what it rests on), the object in clear view and what it rests on in view."""
    clear = sight.clear_in("image")
    return [
        (thing, under)
        for thing, under, _ in sight.related("on")
        if under is not None and thing in clear and not is_hidden(under.in_image)
    ]


def _balls_on_ramps(sight: Sight) -> list[tuple[WorldObject, list[WorldObject]]]:
    """Each ball on a ramp with what it hits, in order of time; left out where a viewer might see it otherwise."""
    return [
        (ball, hits)
        for ball, under in _carried(sight)
        if ball.category == "ball" and under.category == "ramp" and (hits := sight.hits_of(ball)) is not None
    ]


SPATIAL_IMAGE = (
    Template(
        "spatial_image",
        "closer_to_camera",
        "image",
        (
            "What colour is the one closer to the camera, the {first} or the {second}?",
            "Of the {first} and the {second}, what colour is the one closer to the camera?",
            "Which is closer to the camera, the {first} or the {second}? Name its colour.",
        ),
        closer_to_camera,
    ),
    Template(
        "spatial_image",
        "closest_shape",
        "image",
        ("What shape is the object closest to the camera?", "What is the shape of the object nearest to the camera?"),
        closest_shape,
    ),
    Template(
        "spatial_image",
        "nearer",
        "image",
        (
            "What colour is the one nearer to the {target}, the {first} or the {second}?",
            "Of the {first} and the {second}, what colour is the one nearer to the {target}?",
            "Which is nearer to the {target}, the {first} or the {second}? Name its colour.",
        ),
        nearer,
    ),
    Template(
        "spatial_image",
        "seen_from",
        "image",
        (
            "Seen from the {standing} looking at the {facing}, is the {target} on the left or on the right?",
            "Looking from the {standing} to the {facing}, is the {target} to the left or to the right?",
        ),
        seen_from,
    ),
)

MULTI_IMAGE = (
    Template(
        "multi_image",
        "camera_motion",
        "images",
        (
            "From the first picture to the second, which way did the camera move?",
            "In which direction did the camera move between the two pictures?",
            "How did the camera move after the first picture was taken?",
        ),
        camera_motion,
    ),
    Template(
        "multi_image",
        "shift",
        "images",
        (
            "From the first picture to the second, which way does the {name} shift in the picture?",
            "Which way has the {name} shifted in the second picture: left, right, up or down?",
        ),
        shift,
    ),
    Template(
        "multi_image",
        "size_change",
        "images",
        (
            "Does the {name} look bigger or smaller in the second picture than in the first?",
            "From the first picture to the second, does the {name} get bigger or smaller?",
        ),
        size_change,
    ),
)

TEMPORAL_IMAGE = (
    Template(
        "temporal_image",
        "will_fall",
        "image",
        ("Will the {name} fall?", "Is the {name} about to fall?", "Is the {name} going to fall down?"),
        will_fall,
    ),
    Template(
        "temporal_image",
        "will_roll",
        "image",
        (
            "Will the object on the ramp roll down?",
            "Is the object on the ramp about to roll down?",
            "Does the object on the ramp start to roll?",
        ),
        will_roll,
    ),
    Template(
        "temporal_image",
        "will_hit",
        "image",
        (
            "What colour is the first object that the {name} will hit, if any?",
            "Will the {name} hit something? Name its colour, or say nothing.",
        ),
        will_hit,
    ),
    Template(
        "temporal_image",
        "will_hit_it",
        "image",
        ("Will the {name} hit the {target}?", "Is the {name} going to hit the {target}?"),
        will_hit_it,
    ),
)
