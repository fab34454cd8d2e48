# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""Questions on one video (a fly-through, or things that move before a standing camera) and on two."""

from collections.abc import Callable

import numpy as np

from polyv.csqa.executor import NUMBERS
from polyv.csqa.sight import direction as way_of
from polyv.csqa.sight import is_clear, is_hidden, travel
from polyv.world.questions_general import count_shapes
from polyv.world.questions_image import nearer
from polyv.world.records import WorldObject
from polyv.world.sightings import Sight
from polyv.world.templates import Found, Template, colour, shuffled_pair


# Frames between the moments at which two objects come into view.
_FRAMES_APART = 3
# Seconds between the moments at which two objects start to move.
_SECONDS_APART = 0.35
# Metres: what moves less counts as at rest.
_AT_REST = 0.05


def fly_count(sight: Sight, _: np.random.Generator) -> list[Found]:
    """How many objects a fly-through shows in all."""
    things = sight.countable("video") if sight.flies and not sight.furniture else None
    return [Found({}, NUMBERS[len(things)])] if things else []


def fly_count_shape(sight: Sight, rng: np.random.Generator) -> list[Found]:
    """How many objects of a shape a fly-through shows in all."""
    return count_shapes((sight.countable("video") or []) if sight.flies else [], rng)


def fly_nearer(sight: Sight, rng: np.random.Generator) -> list[Found]:
    """Which of two is nearer to a third in a fly-through."""
    return nearer(sight, rng, medium="video") if sight.flies else []


def appears_first(sight: Sight, rng: np.random.Generator) -> list[Found]:
    """Which of two comes into view first in a fly-through."""
    if not sight.flies:
        return []
    cameras = sight.record.video_cameras
    found = []
    for a in sight.clear_in("video"):
        for b in sight.clear_in("video"):
            in_full = next(i for i, look in enumerate(a.in_video) if is_clear(look, cameras[i]))
            at_all = next(i for i, look in enumerate(b.in_video) if not is_hidden(look))
            if colour(a) != colour(b) and at_all - in_full >= _FRAMES_APART:
                found.append(Found(shuffled_pair(a, b, rng), colour(a)))
    return found


def _movers(sight: Sight) -> list[WorldObject] | None:
    """The objects that move before a standing camera, in order of their start; None where one is in doubt.

    All must be clear in the first frame: what starts to move unseen cannot be asked about.
    """
    if sight.flies:
        return None
    movers = [thing for thing, _, _ in sight.related("moves")]
    clear = {thing.id for thing in sight.in_first_frame}
    resting = (thing for thing in sight.solids if thing not in movers)
    if any(thing.id not in clear for thing in movers) or any(travel(thing) > _AT_REST for thing in resting):
        return None
    return movers


def moved_colour(sight: Sight, _: np.random.Generator) -> list[Found]:
    """The colour of the one object that moves."""
    movers = _movers(sight) or []
    return [Found({}, colour(movers[0]))] if len(movers) == 1 else []


def moved_shape(sight: Sight, _: np.random.Generator) -> list[Found]:
    """The shape of the one object that moves."""
    movers = _movers(sight) or []
    return [Found({}, movers[0].category)] if len(movers) == 1 else []


def does_move(sight: Sight, _: np.random.Generator) -> list[Found]:
    """Whether a given object moves."""
    movers = _movers(sight)
    if movers is None:
        return []
    clear = [thing for thing in sight.in_first_frame if thing in sight.solids]
    return [Found({"name": t.name}, "yes" if t in movers else "no", given=t.category) for t in clear]


def moves_first(sight: Sight, _: np.random.Generator) -> list[Found]:
    """The colour of the object that moves first, of several."""
    starts = [(thing, start) for thing, _, start in sight.related("moves")]
    if not _movers(sight) or len(starts) < 2 or starts[1][1] - starts[0][1] < _SECONDS_APART:
        return []
    if any(colour(thing) == colour(starts[0][0]) for thing, _ in starts[1:]):
        return []
    return [Found({}, colour(starts[0][0]))]


def direction(sight: Sight, _: np.random.Generator) -> list[Found]:
    """Which way an object sets out."""
    return [
        Found({"name": thing.name}, way)
        for thing in _movers(sight) or []
        if (way := way_of(sight.record, thing)) is not None
    ]


def hit_what(sight: Sight, _: np.random.Generator) -> list[Found]:
    """The colour of the one object that a moving object hits, or "nothing"; both must be plain to see."""
    clear = sight.in_first_frame
    found = []
    for thing in _movers(sight) or []:
        hits = sight.hits_of(thing)
        was_hit = any(target is thing for _, target, _ in sight.related("hits"))
        if hits is None:
            continue
        if not hits and not was_hit:
            found.append(Found({"name": thing.name}, "nothing", given=thing.category))
        elif len(hits) == 1 and not was_hit and hits[0] in clear:
            found.append(Found({"name": thing.name}, colour(hits[0]), given=thing.category))
    return found


def anything_falls(sight: Sight, _: np.random.Generator) -> list[Found]:
    """Whether anything falls off something."""
    if _movers(sight) is None or sight.falls is None:
        return []
    return [Found({}, "yes" if sight.falls else "no")]


def does_fall(sight: Sight, _: np.random.Generator) -> list[Found]:
    """Whether a given object that rests on a table or on another object falls off it."""
    if _movers(sight) is None:
        return []
    falling = {thing.id for thing, _, _ in sight.related("falls_from")}
    clear = sight.in_first_frame
    return [
        Found({"name": thing.name}, "yes" if thing.id in falling else "no", given=thing.category)
        for thing, under, _ in sight.related("on")
        if under is not None and under.category != "ramp" and thing in clear and not sight.tips(thing)
    ]


def _one_of_two(sight: Sight, happens: Callable[[Sight], bool | None]) -> list[Found]:
    """Which of the two videos shows an event that the other lacks."""
    if sight.partner is None or _movers(sight) is None or _movers(sight.partner) is None:
        return []
    here, there = happens(sight), happens(sight.partner)
    if here is None or there is None or here == there:
        return []
    return [Found({}, "first" if here else "second")]


def which_collides(sight: Sight, _: np.random.Generator) -> list[Found]:
    """Which of two videos shows a collision."""
    return _one_of_two(sight, lambda video: video.collides)


def which_falls(sight: Sight, _: np.random.Generator) -> list[Found]:
    """Which of two videos shows a fall."""
    return _one_of_two(sight, lambda video: video.falls)


def same_direction(sight: Sight, _: np.random.Generator) -> list[Found]:
    """Whether two objects, one in each video, move the same way."""
    found: list[Found] = []
    if sight.partner is None:
        return found
    for one in _movers(sight) or []:
        for other in _movers(sight.partner) or []:
            ways = way_of(sight.record, one), way_of(sight.partner.record, other)
            if None not in ways:
                found.append(Found({"one": one.name, "other": other.name}, "yes" if ways[0] == ways[1] else "no"))
    return found


SPATIAL_VIDEO = (
    Template(
        "spatial_video",
        "fly_count",
        "video",
        (
            "How many different objects does the whole video show?",
            "Count all objects that come into view in the video.",
        ),
        fly_count,
    ),
    Template(
        "spatial_video",
        "fly_count_shape",
        "video",
        (
            "How many different {things} does the whole video show?",
            "Count all {things} that come into view in the video.",
        ),
        fly_count_shape,
    ),
    Template(
        "spatial_video",
        "appears_first",
        "video",
        (
            "What colour is the one that comes into view first, the {first} or the {second}?",
            "Of the {first} and the {second}, what colour is the one that appears first in the video?",
        ),
        appears_first,
    ),
    Template(
        "spatial_video",
        "fly_nearer",
        "video",
        (
            "What colour is the one nearer to the {target}, the {first} or the {second}?",
            "Of the {first} and the {second}, what colour is the one that stands nearer to the {target}?",
        ),
        fly_nearer,
    ),
)

CROSS_VIDEO = (
    Template(
        "cross_video",
        "which_collides",
        "videos",
        (
            "In which video do two objects collide, the first or the second?",
            "Which video shows one object hitting another, the first or the second?",
        ),
        which_collides,
    ),
    Template(
        "cross_video",
        "which_falls",
        "videos",
        (
            "In which video does something fall to the floor, the first or the second?",
            "Which video shows a fall, the first or the second?",
        ),
        which_falls,
    ),
    Template(
        "cross_video",
        "same_direction",
        "videos",
        (
            "Do the {one} in the first video and the {other} in the second set out in the same direction?",
            "Does the {one} of the first video first move the same way as the {other} of the second?",
        ),
        same_direction,
    ),
)

GENERAL_VIDEO_EVENTS = (
    Template(
        "general_video",
        "moved_colour",
        "video",
        ("What colour is the object that moves?", "Only one object moves. What colour is it?"),
        moved_colour,
    ),
    Template(
        "general_video",
        "moved_shape",
        "video",
        ("What shape is the object that moves?", "Only one object moves. What shape is it?"),
        moved_shape,
    ),
    Template(
        "general_video",
        "does_move",
        "video",
        ("Does the {name} move?", "Is the {name} in motion at any time?"),
        does_move,
    ),
    # Rare: about five scenes of a hundred have two things that start at clearly different times.
    Template(
        "general_video",
        "moves_first",
        "video",
        ("What colour is the object that moves first?", "Several objects move. What colour is the first to move?"),
        moves_first,
    ),
    Template(
        "general_video",
        "direction",
        "video",
        (
            "Does the {name} set out to the left, to the right, towards the camera or away from it?",
            "Which way does the {name} first move as the camera sees it: left, right, towards or away?",
        ),
        direction,
    ),
    Template(
        "general_video",
        "hit_what",
        "video",
        (
            "What colour is the object that the {name} hits, if any?",
            "The {name} moves. Name the colour of what it hits, or say nothing.",
        ),
        hit_what,
    ),
    Template(
        "general_video",
        "anything_falls",
        "video",
        ("Does anything fall in the video?", "Does an object fall to the floor?"),
        anything_falls,
    ),
    Template(
        "general_video",
        "does_fall",
        "video",
        ("Does the {name} fall in the video?", "Does the {name} fall to the floor?"),
        does_fall,
    ),
)
