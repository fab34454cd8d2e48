# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""Questions about single objects: the same object in two media (consistency), and over time (continuity)."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Literal

from polyv.csqa.programs import (
    Any,
    Beside,
    Direction,
    Extreme,
    FirstSeen,
    Height,
    LastSeen,
    Name,
    Number,
    Reappears,
    RestsOn,
    Seen,
    Subjects,
    Target,
    The,
    Travel,
    Whether,
)
from polyv.csqa.templates import ORDINALS, Medium, Proposal, Propose, Scene, Template, either, events, first, refer


def mover(scene: Scene) -> Iterator[Proposal]:
    """The only object that moves."""
    yield Proposal({}, Name(of=The(of=Subjects(of=events("moves")))))


def struck_first(scene: Scene) -> Iterator[Proposal]:
    """The first object to be hit."""
    yield Proposal({}, Name(of=Target(of=first(events("hits")))))


def still_on(scene: Scene) -> Iterator[Proposal]:
    """Whether an object rests on at the end what it rested on at the start."""
    for thing in scene.clear("image", "video"):
        under = scene.support(thing)
        if scene.camera_stands and under is not None and not scene.record.media.image_frame:
            program = Whether(one=RestsOn(of=refer(thing), at="start"), other=RestsOn(of=refer(thing), at="end"))
            yield Proposal({"a": thing.name, "under": under}, program)


def same_side(scene: Scene) -> Iterator[Proposal]:
    """Whether one object is at the end on the side of another one on which it was in the picture."""
    moved = {subject.id for subject, *_ in scene.happened("moves")}
    for a, b in scene.pairs("image", "video"):
        if scene.camera_stands and moved & {a.id, b.id}:
            before, after = (Beside(target=refer(a), beside=refer(b), at=at) for at in ("image", "end"))
            yield Proposal({"a": a.name, "b": b.name}, Whether(one=before, other=after))


def _compare(number: Number, order: Literal["most", "least"], *media: Medium) -> Propose:
    """Which of two objects has most, or least, of a quantity."""

    def propose(scene: Scene) -> Iterator[Proposal]:
        for a, b in scene.pairs(*media):
            # Of what stands on a table one could not tell whether it is taller, or only higher up.
            if isinstance(number, Height) and not scene.support(a) == scene.support(b) == "floor":
                continue
            program = Name(of=Extreme(of=either(a, b), by=number, order=order))
            yield Proposal({"a": a.name, "b": b.name}, program)

    return propose


def seen_in_view(scene: Scene) -> Iterator[Proposal]:
    """Whether an object of the picture shows in a view of the scene."""
    for thing in scene.clear("image", "scene"):
        for view in scene.views():
            if view != scene.record.media.image_view:
                yield Proposal({"a": thing.name, "view": ORDINALS[view]}, Seen(of=refer(thing), at=view))


def direction(scene: Scene) -> Iterator[Proposal]:
    """Which way an object sets out."""
    for thing in scene.clear("video"):
        if scene.camera_stands and any(thing is subject for subject, *_ in scene.happened("moves")):
            yield Proposal({"a": thing.name}, Direction(of=refer(thing)))


def still_in_view(scene: Scene) -> Iterator[Proposal]:
    """Whether an object still shows in the last frame."""
    for thing in scene.clear("video"):
        yield Proposal({"a": thing.name}, Seen(of=refer(thing), at="end"))


def reappears(scene: Scene) -> Iterator[Proposal]:
    """Whether an object goes out of view and comes back."""
    for thing in scene.clear("video"):
        yield Proposal({"a": thing.name}, Reappears(of=refer(thing)))


def _ends_on(medium: Medium) -> Propose:
    """What an object rests on at the end."""

    def propose(scene: Scene) -> Iterator[Proposal]:
        for thing in scene.clear(medium):
            if scene.camera_stands and scene.support(thing) not in (None, "floor"):
                yield Proposal({"a": thing.name}, RestsOn(of=refer(thing), at="end"))

    return propose


def will_move(scene: Scene) -> Iterator[Proposal]:
    """Whether an object will move."""
    for thing in scene.clear("image"):
        yield Proposal({"a": thing.name}, Any(of=events("moves", thing)))


_BOTH: tuple[Medium, ...] = ("image", "video")

_TALLER = Template(
    "object_consistency",
    "taller",
    ("image", "scene"),
    "scene",
    (
        "Measured in the 3D scene, which of the two in the picture is taller, the {a} or the {b}?",
        "The picture shows the {a} and the {b}. Which of them stands taller in the scene?",
        "Of the {a} and the {b} in the picture, which one is really the taller?",
    ),
    _compare(Height(), "most", "image", "scene"),
)

OBJECT_CONSISTENCY = (
    Template(
        "object_consistency",
        "mover",
        _BOTH,
        "video",
        (
            "One of the objects in the picture moves in the video. Which one?",
            "Which object of the picture is the one that moves in the video?",
            "Only one thing in the picture moves when the video plays. What is it?",
        ),
        mover,
    ),
    Template(
        "object_consistency",
        "struck_first",
        _BOTH,
        "video",
        (
            "Which object of the picture is the first to be hit in the video?",
            "In the video something gets hit. Which object of the picture is hit first?",
            "What in the picture is struck first once the video plays?",
        ),
        struck_first,
    ),
    Template(
        "object_consistency",
        "still_on",
        _BOTH,
        "video",
        (
            "In the picture the {a} rests on the {under}. Does it still do so at the end of the video?",
            "The {a} is on the {under} in the picture. Is that still true when the video ends?",
            "By the end of the video, is the {a} still on the {under} as in the picture?",
        ),
        still_on,
    ),
    Template(
        "object_consistency",
        "same_side",
        _BOTH,
        "video",
        (
            "At the end of the video, is the {a} still on the same side of the {b} as in the picture?",
            "Compare the picture with the last frame of the video: has the {a} stayed on its side of the {b}?",
            "Does the {a} end up on the side of the {b} where the picture shows it?",
        ),
        same_side,
    ),
    Template(
        "object_consistency",
        "seen_in_view",
        ("image", "scene"),
        "scene",
        (
            "Does the {a} of the picture show in the {view} view of the scene?",
            "Can one see the {a} from the picture in the {view} view, too?",
            "Is the {a} that the picture shows visible in the {view} view?",
        ),
        seen_in_view,
    ),
    _TALLER,
    replace(
        _TALLER,
        name="taller_from_picture",
        shown=("image",),
        wordings=(
            "Which of the two is really the taller, the {a} or the {b}?",
            "Apart from how large they look, which stands taller, the {a} or the {b}?",
            "If one measured them, would the {a} or the {b} be the taller?",
        ),
    ),
)

_ENDS_ON = Template(
    "object_continuity",
    "ends_on",
    ("video",),
    "video",
    (
        "What does the {a} rest on at the end of the video?",
        "On what does the {a} lie in the last frame?",
        "When the video ends, what is the {a} on?",
    ),
    _ends_on("video"),
)
_GOES_FARTHER = Template(
    "object_continuity",
    "goes_farther",
    ("video",),
    "video",
    (
        "Which gets farther from where it started, the {a} or the {b}?",
        "Of the {a} and the {b}, which one goes farther away from its starting place?",
        "Does the {a} or the {b} go farther from where it began?",
    ),
    _compare(Travel(), "most", "video"),
)

OBJECT_CONTINUITY = (
    Template(
        "object_continuity",
        "direction",
        ("video",),
        "video",
        (
            "Which way does the {a} set out as the camera sees it: left, right, towards or away?",
            "Does the {a} first go to the left, to the right, towards the camera or away from it?",
            "In which direction does the {a} start to move: left, right, towards or away?",
        ),
        direction,
    ),
    Template(
        "object_continuity",
        "still_in_view",
        ("video",),
        "video",
        (
            "Is the {a} still in view when the video ends?",
            "Does the last frame of the video still show the {a}?",
            "Can one still see the {a} at the end of the video?",
        ),
        still_in_view,
    ),
    Template(
        "object_continuity",
        "reappears",
        ("video",),
        "video",
        (
            "Does the {a} go out of view and come back later in the video?",
            "Between the first and the last time that one sees the {a}, is it ever out of view?",
            "Does the {a} vanish from the video and appear again?",
        ),
        reappears,
    ),
    Template(
        "object_continuity",
        "leaves_first",
        ("video",),
        "video",
        (
            "Which is out of view for good first, the {a} or the {b}?",
            "Of the {a} and the {b}, which one is last seen earlier?",
            "Does the {a} or the {b} leave the picture for good first?",
        ),
        _compare(LastSeen(), "least", "video"),
    ),
    Template(
        "object_continuity",
        "comes_later",
        ("video",),
        "video",
        (
            "Which comes into view later, the {a} or the {b}?",
            "Of the {a} and the {b}, which one comes into the picture later?",
            "Does the {a} or the {b} show up later?",
        ),
        _compare(FirstSeen(), "most", "video"),
    ),
    _ENDS_ON,
    _GOES_FARTHER,
    replace(
        _ENDS_ON,
        name="will_end_on",
        shown=("image",),
        foreseen="on",
        wordings=(
            "In the end, what will the {a} rest on?",
            "On what will the {a} lie in the end?",
            "What will the {a} be on, once everything has come to rest?",
        ),
        propose=_ends_on("image"),
    ),
    replace(
        _GOES_FARTHER,
        name="will_go_farther",
        shown=("image",),
        foreseen="moves",
        wordings=(
            "Which will get farther from where it is now, the {a} or the {b}?",
            "Of the {a} and the {b}, which one will go farther away from its present place?",
            "Will the {a} or the {b} go farther from where the picture shows it?",
        ),
        propose=_compare(Travel(), "most", "image"),
    ),
    Template(
        "object_continuity",
        "will_move",
        ("image",),
        "video",
        ("Will the {a} move?", "Is the {a} going to leave its place?", "Will the {a} be set in motion?"),
        will_move,
        foreseen="moves",
    ),
)
