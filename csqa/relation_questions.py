# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""Questions about two objects and more: what acts on what over time (interaction), and what a relation becomes from
another viewpoint (view-dependency)."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import permutations

from polyv.csqa.programs import (
    Ahead,
    Any,
    Beside,
    Count,
    Depth,
    Distance,
    Extreme,
    Hidden,
    InFront,
    Name,
    Side,
    Subject,
    Target,
    Targets,
    Whether,
)
from polyv.csqa.templates import ORDINALS, Medium, Proposal, Propose, Scene, Template, either, events, first, refer


# Seconds that it takes to see whether something begins to move.
_TO_SEE = 0.5


def _hits_what(medium: Medium) -> Propose:
    """What an object hits first."""

    def propose(scene: Scene) -> Iterator[Proposal]:
        for thing in scene.clear(medium):
            yield Proposal({"a": thing.name}, Name(of=Target(of=first(events("hits", thing)))))

    return propose


def hit_by(scene: Scene) -> Iterator[Proposal]:
    """What hits an object first."""
    for thing in scene.clear("video"):
        yield Proposal({"a": thing.name}, Name(of=Subject(of=first(events("hits", target=thing)))))


def _whether_hits(medium: Medium) -> Propose:
    """Whether one object hits another, one of the two at least being in motion."""

    def propose(scene: Scene) -> Iterator[Proposal]:
        movers = {subject.id for subject, *_ in scene.happened("moves")}
        for a, b in scene.pairs(medium):
            if a.id in movers:
                yield Proposal({"a": a.name, "b": b.name}, Any(of=events("hits", a, b)))

    return propose


def _moves_after(medium: Medium) -> Propose:
    """Whether what is hit moves on from there."""

    def propose(scene: Scene) -> Iterator[Proposal]:
        clear, end = scene.clear(medium), scene.looks.last_second() or 0.0
        began = {subject.id: start for subject, _, start in scene.happened("moves")}
        for a, b, start in scene.happened("hits"):
            # What moves already is not set off, and just before the end one cannot see whether it is.
            if a in clear and b in clear and began.get(b.id, end) > start and start + _TO_SEE <= end:
                program = Any(of=events("moves", b, after=first(events("hits", a, b))))
                yield Proposal({"a": a.name, "b": b.name}, program)

    return propose


def hit_count(scene: Scene) -> Iterator[Proposal]:
    """How many objects one hits."""
    for thing in scene.clear("video"):
        if any(thing is subject for subject, *_ in scene.happened("moves")):
            yield Proposal({"a": thing.name}, Count(of=Targets(of=events("hits", thing))))


def hits_next(scene: Scene) -> Iterator[Proposal]:
    """What an object hits after it was hit itself."""
    clear = scene.clear("video")
    for a, b, _ in scene.happened("hits"):
        if a in clear and b in clear:
            then = first(events("hits", b, after=first(events("hits", a, b))))
            yield Proposal({"a": a.name, "b": b.name}, Name(of=Target(of=then)))


def _from_there(operation: type[Side] | type[Ahead], medium: Medium) -> Propose:
    """Where something is for somebody who stands at one object and faces another."""

    def propose(scene: Scene) -> Iterator[Proposal]:
        for a, b, c in scene.triples(medium):
            program = operation(standing=refer(a), facing=refer(b), target=refer(c))
            yield Proposal({"a": a.name, "b": b.name, "c": c.name}, program)

    return propose


def beside_in_view(scene: Scene) -> Iterator[Proposal]:
    """On which side of another object one shows in a view."""
    for view in scene.views():
        for a, b in scene.pairs("scene"):
            program = Beside(target=refer(a), beside=refer(b), at=view)
            yield Proposal({"a": a.name, "b": b.name, "view": ORDINALS[view]}, program)


def sides_swap(scene: Scene) -> Iterator[Proposal]:
    """Whether two objects stand in the same order, from left to right, in two views."""
    for one, other in permutations(scene.views(), 2):
        for a, b in scene.pairs("scene"):
            orders = (Beside(target=refer(a), beside=refer(b), at=view) for view in (one, other))
            slots = {"a": a.name, "b": b.name, "view": ORDINALS[one], "other": ORDINALS[other]}
            yield Proposal(slots, Whether(one=next(orders), other=next(orders)))


def in_front(scene: Scene) -> Iterator[Proposal]:
    """Whether one object stands in front of another or behind it, from where a view was taken."""
    for view in scene.views():
        for a, b in scene.pairs("scene"):
            program = InFront(target=refer(a), than=refer(b), at=view)
            yield Proposal({"a": a.name, "b": b.name, "view": ORDINALS[view]}, program)


def hidden_in_view(scene: Scene) -> Iterator[Proposal]:
    """Whether other things hide an object from a view."""
    for view in scene.views():
        for thing in scene.clear("scene"):
            yield Proposal({"a": thing.name, "view": ORDINALS[view]}, Hidden(of=refer(thing), at=view))


def nearer_in_view(scene: Scene) -> Iterator[Proposal]:
    """Which of two objects is nearer to the camera of a view."""
    for view in scene.views():
        for a, b in scene.pairs("scene"):
            program = Name(of=Extreme(of=either(a, b), by=Depth(at=view), order="least"))
            yield Proposal({"a": a.name, "b": b.name, "view": ORDINALS[view]}, program)


def _nearer_in_space(medium: Medium) -> Propose:
    """Which of two objects is nearer to a third, in space."""

    def propose(scene: Scene) -> Iterator[Proposal]:
        for a, b, c in scene.triples(medium):
            program = Name(of=Extreme(of=either(a, b), by=Distance(to=refer(c)), order="least"))
            yield Proposal({"a": a.name, "b": b.name, "c": c.name}, program)

    return propose


_HITS_WHAT = Template(
    "relation_interaction",
    "hits_what",
    ("video",),
    "video",
    (
        "What does the {a} hit first?",
        "Which object is the first that the {a} runs into?",
        "The {a} hits something. What does it hit first?",
    ),
    _hits_what("video"),
)
_WHETHER_HITS = Template(
    "relation_interaction",
    "whether_hits",
    ("video",),
    "video",
    ("Does the {a} hit the {b}?", "Does the {a} run into the {b}?", "Is the {b} hit by the {a}?"),
    _whether_hits("video"),
)
_MOVES_AFTER = Template(
    "relation_interaction",
    "moves_after",
    ("video",),
    "video",
    (
        "The {a} hits the {b}. Is the {b} pushed from its place by that?",
        "Once the {a} has hit it, does the {b} move away?",
        "Does the {b} give way when the {a} hits it, or does it stay? Answer yes if it moves.",
    ),
    _moves_after("video"),
)

RELATION_INTERACTION = (
    _HITS_WHAT,
    Template(
        "relation_interaction",
        "hit_by",
        ("video",),
        "video",
        (
            "What hits the {a} first?",
            "Which object is the first to run into the {a}?",
            "The {a} is hit by something. By what is it hit first?",
        ),
        hit_by,
    ),
    _WHETHER_HITS,
    _MOVES_AFTER,
    Template(
        "relation_interaction",
        "hit_count",
        ("video",),
        "video",
        (
            "How many objects does the {a} hit?",
            "Into how many things does the {a} run?",
            "Count the objects that the {a} hits.",
        ),
        hit_count,
    ),
    Template(
        "relation_interaction",
        "hits_next",
        ("video",),
        "video",
        (
            "After the {a} has hit it, what does the {b} hit in turn?",
            "The {a} hits the {b}. What does the {b} run into next?",
            "What is the first thing that the {b} hits after the {a} has hit it?",
        ),
        hits_next,
    ),
    replace(
        _HITS_WHAT,
        name="will_hit_what",
        shown=("image",),
        foreseen="hits",
        wordings=(
            "What will the {a} hit first?",
            "Which object is the first that the {a} will run into?",
            "The {a} is about to hit something. What will that be?",
        ),
        propose=_hits_what("image"),
    ),
    replace(
        _WHETHER_HITS,
        name="will_hit",
        shown=("image",),
        foreseen="hits",
        wordings=(
            "Will the {a} hit the {b}?",
            "Is the {a} going to run into the {b}?",
            "Will the {b} be hit by the {a}?",
        ),
        propose=_whether_hits("image"),
    ),
    replace(
        _MOVES_AFTER,
        name="will_move_after",
        shown=("image",),
        foreseen="hits",
        wordings=(
            "The {a} is going to hit the {b}. Will that push the {b} from its place?",
            "Once the {a} has hit it, will the {b} move away?",
            "Will the {b} give way when the {a} hits it?",
        ),
        propose=_moves_after("image"),
    ),
)

_SIDE_FROM = Template(
    "relation_view_dependency",
    "side_from",
    ("scene",),
    "scene",
    (
        "Standing at the {a} and facing the {b}, is the {c} on your left or on your right?",
        "Somebody at the {a} looks at the {b}. On which side of them is the {c}, left or right?",
        "Seen from the {a} towards the {b}, is the {c} to the left or to the right?",
    ),
    _from_there(Side, "scene"),
)
_AHEAD_FROM = Template(
    "relation_view_dependency",
    "ahead_from",
    ("scene",),
    "scene",
    (
        "Standing at the {a} and facing the {b}, is the {c} ahead of you or behind you?",
        "Somebody at the {a} looks at the {b}. Is the {c} ahead of them or behind?",
        "Seen from the {a} towards the {b}, does the {c} lie ahead or behind?",
    ),
    _from_there(Ahead, "scene"),
)
_NEARER = Template(
    "relation_view_dependency",
    "nearer_in_space",
    ("scene",),
    "scene",
    (
        "Which is nearer to the {c} in space, the {a} or the {b}?",
        "Of the {a} and the {b}, which one stands closer to the {c}?",
        "Is the {a} or the {b} closer to the {c}?",
    ),
    _nearer_in_space("scene"),
)

RELATION_VIEW_DEPENDENCY = (
    _SIDE_FROM,
    _AHEAD_FROM,
    Template(
        "relation_view_dependency",
        "beside_in_view",
        ("scene",),
        "scene",
        (
            "In the {view} view, is the {a} left or right of the {b}?",
            "Look at the {view} view: on which side of the {b} does the {a} show, left or right?",
            "Does the {a} appear to the left or to the right of the {b} in the {view} view?",
        ),
        beside_in_view,
    ),
    Template(
        "relation_view_dependency",
        "same_order",
        ("scene",),
        "scene",
        (
            "Do the {a} and the {b} show in the same order from left to right in the {view} view and in the {other} one?",
            "Is the {a} on the same side of the {b} in the {view} view as in the {other} view?",
            "From the {view} view to the {other} one, does the {a} stay on its side of the {b}?",
        ),
        sides_swap,
    ),
    Template(
        "relation_view_dependency",
        "in_front",
        ("scene",),
        "scene",
        (
            "In the {view} view, is the {a} in front of the {b} or behind it? Answer front or behind.",
            "From where the {view} view was taken, does the {a} stand in front of the {b} or behind it: front or behind?",
            "Look at the {view} view. Is the {a} in front of or behind the {b}: front or behind?",
        ),
        in_front,
    ),
    Template(
        "relation_view_dependency",
        "hidden_in_view",
        ("scene",),
        "scene",
        (
            "From where the {view} view was taken, is the {a} hidden behind something?",
            "Does anything hide the {a} from the camera of the {view} view?",
            "Look at the {view} view: is the {a} there, but hidden by something else?",
        ),
        hidden_in_view,
    ),
    Template(
        "relation_view_dependency",
        "nearer_in_view",
        ("scene",),
        "scene",
        (
            "From where the {view} view was taken, which is nearer, the {a} or the {b}?",
            "Which of the two is closer to the camera of the {view} view, the {a} or the {b}?",
            "In the {view} view, is the {a} or the {b} nearer to the camera?",
        ),
        nearer_in_view,
    ),
    _NEARER,
    replace(_SIDE_FROM, name="side_from_picture", shown=("image",), propose=_from_there(Side, "image")),
    replace(_AHEAD_FROM, name="ahead_from_picture", shown=("image",), propose=_from_there(Ahead, "image")),
    replace(_NEARER, name="nearer_from_picture", shown=("image",), propose=_nearer_in_space("image")),
)
