# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""General questions: count, shape and colour, on an image, a video or posed views. No word of space or time.

They are the `general_image` suite, and in all three media the data on which the backbone is trained, which must never
see a spatial or temporal label. Objects are counted in a video only where its camera stands still: to count over a
fly-through is a spatial question, and stays with `spatial_video`. To count over a scene's views is general: they stand
around the same few objects, and in 84 of 100 scenes each of the six shows them all, so that it is counting in one
picture. A fly-through shows them all in 6 of its 16 frames (median): its label would teach which of the things seen at
different times are one and the same, and that is what `spatial_video` tests.
"""

from collections import Counter
from collections.abc import Callable
from functools import partial

import numpy as np

from polyv.csqa.executor import NUMBERS
from polyv.world.records import WorldObject
from polyv.world.scenes import COLOURS, SHAPES
from polyv.world.sightings import Sight
from polyv.world.templates import Finder, Found, Prefix, Template, article, colour, plural


def _to_count(sight: Sight, medium: str) -> list[WorldObject]:
    """The objects that show, or none at all where one is in doubt or a moving camera makes counting spatial."""
    if medium == "video" and sight.flies:
        return []
    return sight.countable(medium) or []


def count_all(sight: Sight, _: np.random.Generator, *, medium: str) -> list[Found]:
    """How many objects show; not asked beside a table or ramp, which one might count as well."""
    things = [] if sight.furniture else _to_count(sight, medium)
    return [Found({}, NUMBERS[len(things)])] if things else []


def count_shape(sight: Sight, rng: np.random.Generator, *, medium: str) -> list[Found]:
    """How many objects of a shape show, "zero" included."""
    return count_shapes(_to_count(sight, medium), rng)


def count_shapes(things: list[WorldObject], rng: np.random.Generator) -> list[Found]:
    """How many of `things` are of each shape, and of one shape that is not among them."""
    counts = Counter(thing.category for thing in things)
    absent = [shape for shape in SHAPES if shape not in counts]
    asked = [*counts, *([str(rng.choice(absent))] if absent else [])] if things else []
    return [Found({"things": plural(shape)}, NUMBERS[counts[shape]]) for shape in asked]


def count_colour(sight: Sight, rng: np.random.Generator, *, medium: str) -> list[Found]:
    """How many objects of a colour show, "zero" included."""
    things = _to_count(sight, medium)
    counts = Counter(colour(thing) for thing in things)
    absent = [name for name in COLOURS if name not in counts]
    asked = [*counts, *([str(rng.choice(absent))] if absent else [])] if things else []
    return [Found({"colour": name}, NUMBERS[counts[name]]) for name in asked]


def shape_of_colour(sight: Sight, _: np.random.Generator, *, medium: str) -> list[Found]:
    """The shape of the one object of a colour; no other object of that colour may be in the scene at all."""
    once = Counter(colour(thing) for thing in sight.objects)
    return [Found({"colour": colour(t)}, t.category) for t in sight.clear_in(medium) if once[colour(t)] == 1]


def colour_of_shape(sight: Sight, _: np.random.Generator, *, medium: str) -> list[Found]:
    """The colour of the one object of a shape; no other object of that shape may be in the scene at all."""
    once = Counter(thing.category for thing in sight.objects)
    return [Found({"shape": t.category}, colour(t)) for t in sight.clear_in(medium) if once[t.category] == 1]


def exists(sight: Sight, rng: np.random.Generator, *, medium: str) -> list[Found]:
    """Whether an object of a name shows. Absent names mix a colour and a shape that do show, so both must be bound."""
    things = sight.countable(medium)
    if not things:
        return []
    present = {thing.name for thing in sight.objects}
    mixed = [f"{colour(a)} {b.category}" for a in things for b in things]
    absent = sorted({name for name in mixed if name not in present})
    if not absent:
        return []
    some, none = things[rng.integers(len(things))], absent[rng.integers(len(absent))]
    return [Found({"name": article(some.name)}, "yes"), Found({"name": article(none)}, "no")]


_KINDS: tuple[tuple[str, Callable[..., list[Found]], tuple[str, ...]], ...] = (
    (
        "count_all",
        count_all,
        ("How many objects are in the {place}?", "Count the objects in the {place}.", "How many objects do you see?"),
    ),
    (
        "count_shape",
        count_shape,
        ("How many {{things}} are in the {place}?", "Count the {{things}}.", "How many {{things}} do you see?"),
    ),
    (
        "count_colour",
        count_colour,
        (
            "How many objects in the {place} are {{colour}}?",
            "Count the {{colour}} objects.",
            "How many {{colour}} objects do you see?",
        ),
    ),
    (
        "shape_of_colour",
        shape_of_colour,
        (
            "What shape is the {{colour}} object?",
            "Which shape does the {{colour}} object have?",
            "What is the shape of the {{colour}} object in the {place}?",
        ),
    ),
    (
        "colour_of_shape",
        colour_of_shape,
        (
            "What colour is the {{shape}}?",
            "Which colour does the {{shape}} have?",
            "What is the colour of the {{shape}} in the {place}?",
        ),
    ),
    (
        "exists",
        exists,
        ("Is there {{name}} in the {place}?", "Do you see {{name}}?", "Does the {place} show {{name}}?"),
    ),
)


def _templates(suite: str, media: Prefix, place: str) -> tuple[Template, ...]:
    return tuple(
        Template(suite, name, media, tuple(w.format(place=place) for w in wordings), _on(find, media), general=True)
        for name, find, wordings in _KINDS
    )


def _on(find: Callable[..., list[Found]], medium: str) -> Finder:
    return partial(find, medium=medium)


GENERAL_IMAGE = _templates("general_image", "image", "picture")
# Not part of a suite's evaluation: the same kinds on the other two media, for the backbone.
GENERAL_VIDEO = _templates("general_video", "video", "video")
GENERAL_SCENE = _templates("scene_qa", "scene", "scene")
