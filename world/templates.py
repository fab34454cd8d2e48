# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""What a kind of question is made of, and the few words that all kinds share."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from polyv.world.records import WorldObject
from polyv.world.sightings import Sight


Prefix = Literal["image", "images", "video", "videos", "scene"]


class Found(NamedTuple):
    """One well-posed instance: the words that fill the wording, the one-word answer, and `given`, a word of the
    question that might tell the answer ("ball", where most of what moves are balls). Answers are kept level for each
    `given` apart."""

    slots: dict[str, str]
    answer: str
    given: str = ""


Finder = Callable[[Sight, np.random.Generator], list[Found]]


@dataclass(frozen=True)
class Template:
    """One kind of question.

    `find` lists every well-posed instance in a scene; `wordings` are ways to say the same, with its words in braces;
    `media` is what is shown before the question: the image, both images, the video, two videos or the posed views.
    `general` marks questions about count, shape and colour alone, which say nothing of space or time.
    """

    suite: str
    name: str
    media: Prefix
    wordings: tuple[str, ...]
    find: Finder
    general: bool = False


def colour(thing: WorldObject) -> str:
    """An object's colour word."""
    return thing.attributes["colour"]


def article(words: str) -> str:
    """ "orange box" → "an orange box"."""
    return f"an {words}" if words[0] in "aeiou" else f"a {words}"


def plural(category: str) -> str:
    """ "box" → "boxes", "ball" → "balls"."""
    return category + ("es" if category.endswith(("x", "s", "sh", "ch")) else "s")


def shuffled_pair(a: WorldObject, b: WorldObject, rng: np.random.Generator) -> dict[str, str]:
    """The two as slots "first" and "second" in random order, so that the order tells nothing about the answer."""
    first, second = (a, b) if rng.random() < 0.5 else (b, a)
    return {"first": first.name, "second": second.name}


def which_of_two(
    things: list[WorldObject], nearer: Callable[[WorldObject, WorldObject], bool], rng: np.random.Generator
) -> list[Found]:
    """All pairs of unlike colour of which one is surely the nearer; the answer is that one's colour."""
    return [
        Found(shuffled_pair(a, b, rng), colour(a))
        for a in things
        for b in things
        if colour(a) != colour(b) and nearer(a, b)
    ]


def nearest_of(things: list[WorldObject], nearer: Callable[[WorldObject, WorldObject], bool]) -> WorldObject | None:
    """The one that is surely nearer than each of the others; None on a near tie or where there are fewer than two."""
    for a in things if len(things) > 1 else ():
        if all(b is a or nearer(a, b) for b in things):
            return a
    return None
