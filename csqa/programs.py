# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""Question programs: what a question asks of a scene graph, as data that anyone can execute again.

A program is a tree of typed operations. Each kind of value has its operations, told apart by `op`:

    Objects   some objects                "objects", "subjects", "targets", "those", "without"
    Object    exactly one of them         "the", "subject", "target", "extreme"
    Events    some relations, by time     "events"
    Event     exactly one of them         "nth"
    Number    a quantity of an object     "height", "travel", "distance", "depth", "first_seen", "last_seen"
    Word      the answer                  all others

"What colour is the first thing that the red ball hits?" is

    {"op": "attribute", "name": "colour", "of":
        {"op": "target", "of": {"op": "nth", "index": 0, "of":
            {"op": "events", "predicate": "hits", "subject":
                {"op": "the", "of": {"op": "objects", "category": "ball", "attributes": {"colour": "red"}}}}}}}

`polyv.csqa.executor.execute` computes its answer.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt

from polyv.csqa.records import Record


Picture = Literal["image", "start", "end"] | NonNegativeInt
"""Where something is looked at: the image, the first or last frame of the video, or a posed view by its index."""


# --- some objects ----------------------------------------------------------------------------------------------------


class AllObjects(Record):
    """All objects of a category and of these attributes."""

    op: Literal["objects"] = "objects"
    category: str | None = None
    attributes: dict[str, str] = {}


class Subjects(Record):
    """What does it, in each of the events."""

    op: Literal["subjects"] = "subjects"
    of: Events


class Targets(Record):
    """What it is done to, in each of the events."""

    op: Literal["targets"] = "targets"
    of: Events


class Those(Record):
    """These, one by one."""

    op: Literal["those"] = "those"
    of: tuple[Object, ...]


class Without(Record):
    """Those of `of` that are not among `but`."""

    op: Literal["without"] = "without"
    of: Objects
    but: Objects


# --- one object ------------------------------------------------------------------------------------------------------


class The(Record):
    """The only one there is; with none or several the question is ill-posed."""

    op: Literal["the"] = "the"
    of: Objects


class Subject(Record):
    op: Literal["subject"] = "subject"
    of: Event


class Target(Record):
    op: Literal["target"] = "target"
    of: Event


class Extreme(Record):
    """The one with the most or the least of a quantity, by a margin that a viewer sees."""

    op: Literal["extreme"] = "extreme"
    of: Objects
    by: Number
    order: Literal["most", "least"]


# --- relations and when they are -------------------------------------------------------------------------------------


class SomeEvents(Record):
    """The relations of a predicate, subject and target, by when they start; `after` and `before` another one's start.

    Those seen at one posed view where `at` is given, else those that the viewpoint is of no matter to.
    """

    op: Literal["events"] = "events"
    predicate: str | None = None
    subject: Object | None = None
    target: Object | None = None
    after: Event | None = None
    before: Event | None = None
    at: NonNegativeInt | None = None


class Nth(Record):
    """One of the events: 0 is the first, -1 the last."""

    op: Literal["nth"] = "nth"
    of: Events
    index: int


# --- quantities of an object -----------------------------------------------------------------------------------------


class Height(Record):
    """Its size along the world's z axis, metres."""

    op: Literal["height"] = "height"


class Travel(Record):
    """How far from its start it comes in the video, metres."""

    op: Literal["travel"] = "travel"


class Distance(Record):
    """From another object, metres, between centres as between surfaces."""

    op: Literal["distance"] = "distance"
    to: Object


class Depth(Record):
    """From the camera of a picture, metres."""

    op: Literal["depth"] = "depth"
    at: Picture


class FirstSeen(Record):
    """When it comes into view in the video, seconds."""

    op: Literal["first_seen"] = "first_seen"


class LastSeen(Record):
    """When it is last in view in the video, seconds."""

    op: Literal["last_seen"] = "last_seen"


# --- words -----------------------------------------------------------------------------------------------------------


class Attribute(Record):
    """An attribute's value; `name` "category" gives the category."""

    op: Literal["attribute"] = "attribute"
    of: Object
    name: str


class Name(Record):
    """What questions call it, as in "red ball"."""

    op: Literal["name"] = "name"
    of: Object


class Count(Record):
    """How many there are, as a word."""

    op: Literal["count"] = "count"
    of: Objects | Events


class Any(Record):
    """Whether there is one: yes or no."""

    op: Literal["any"] = "any"
    of: Objects | Events


class Predicate(Record):
    """What happens in an event."""

    op: Literal["predicate"] = "predicate"
    of: Event


class Order(Record):
    """Before or after: when one event starts, next to when another one does."""

    op: Literal["order"] = "order"
    one: Event
    other: Event


class Holds(Record):
    """Whether one of the events is going on at a moment of the video, or in a frame of it that is the image: yes or no."""

    op: Literal["holds"] = "holds"
    of: Events
    at: Literal["image", "start", "end"]


class Side(Record):
    """Left or right: where `target` is for somebody who stands at one object and faces another."""

    op: Literal["side"] = "side"
    standing: Object
    facing: Object
    target: Object


class Ahead(Record):
    """Ahead or behind: as `Side`."""

    op: Literal["ahead"] = "ahead"
    standing: Object
    facing: Object
    target: Object


class Beside(Record):
    """Left or right: on which side of `beside` `target` shows in a picture."""

    op: Literal["beside"] = "beside"
    target: Object
    beside: Object
    at: Picture


class InFront(Record):
    """Front or behind: whether `target` stands before `than` for the camera of a picture that shows one behind the other."""

    op: Literal["in_front"] = "in_front"
    target: Object
    than: Object
    at: Picture


class Seen(Record):
    """Whether it shows in a picture, clearly or not at all: yes or no."""

    op: Literal["seen"] = "seen"
    of: Object
    at: Picture


class Hidden(Record):
    """Whether other things hide it from a posed view that looks where it is: yes, or no where it is in plain view."""

    op: Literal["hidden"] = "hidden"
    of: Object
    at: NonNegativeInt


class Direction(Record):
    """Which way it sets out, as the video's camera sees it: left, right, towards or away."""

    op: Literal["direction"] = "direction"
    of: Object


class RestsOn(Record):
    """What it rests on: the name of another object, or floor."""

    op: Literal["rests_on"] = "rests_on"
    of: Object
    at: Literal["start", "end"]


class Whether(Record):
    """Whether two answers are the same: yes or no."""

    op: Literal["whether"] = "whether"
    one: Word
    other: Word


class Reappears(Record):
    """Whether it goes out of view in the video and comes back: yes or no."""

    op: Literal["reappears"] = "reappears"
    of: Object


Objects = Annotated[AllObjects | Subjects | Targets | Those | Without, Field(discriminator="op")]
Object = Annotated[The | Subject | Target | Extreme, Field(discriminator="op")]
Events = SomeEvents
Event = Nth
Number = Annotated[Height | Travel | Distance | Depth | FirstSeen | LastSeen, Field(discriminator="op")]
Word = Annotated[
    Attribute
    | Name
    | Count
    | Any
    | Predicate
    | Order
    | Holds
    | Side
    | Ahead
    | Beside
    | InFront
    | Seen
    | Hidden
    | Direction
    | RestsOn
    | Whether
    | Reappears,
    Field(discriminator="op"),
]


class QuestionProgram(Record):
    """What a question asks: the operation that gives its answer, and those below it."""

    answer: Word


for _operation in list(globals().values()):
    if isinstance(_operation, type) and issubclass(_operation, Record):
        _operation.model_rebuild()
