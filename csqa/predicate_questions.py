# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""Questions about relations of any predicate that reads after "is": holding, sitting on, attached to, in front of.

Annotated graphs have dozens of these. The predicates of the simulated world have questions of their own.
"""

from collections.abc import Iterator
from itertools import product

from polyv.csqa.executor import SECONDS_APART, execute
from polyv.csqa.looks import IllPosedError
from polyv.csqa.programs import Any, Count, Holds, Name, Nth, Order, Predicate, Subject, Subjects, Target
from polyv.csqa.records import Relation, SceneObject
from polyv.csqa.templates import ORDINALS, Family, Medium, Proposal, Propose, Scene, Template, events, first


_WORDED = ("hits", "moves", "falls_from", "rolls_down", "on")

_Told = tuple[SceneObject, str, SceneObject, Relation]


def _told(scene: Scene, *media: Medium, timed: bool = True, view: bool = False) -> list[_Told]:
    """(subject, predicate, object, relation), of what can be named in each of the media; in an order that tells nothing."""
    things = {thing.id: thing for thing in scene.named if thing.fixture or thing in scene.clear(*media)}
    found = [
        (things[each.subject], each.predicate, things[each.object], each)
        for each in scene.record.relations
        if each.predicate not in _WORDED
        and each.subject in things
        and each.object in things
        and (each.start is not None) == timed
        and (each.view is not None) == view
    ]
    return [found[i] for i in scene.rng.permutation(len(found))]


def _is_action(predicate: str) -> bool:
    """Whether it is done at some time, as "holding" is; what only is somewhere has no first time that anybody could tell."""
    return predicate.split()[0].endswith("ing")


def _slots(a: SceneObject, predicate: str, b: SceneObject | None = None, **more: str) -> dict[str, str]:
    return {"a": a.name, "p": predicate, **({} if b is None else {"b": b.name}), **more}


def does_first(scene: Scene) -> Iterator[Proposal]:
    """What something does it to first."""
    for a, p, _, each in _told(scene, "video"):
        if _is_action(p) and _is_first_by_far(scene, p, "subject", each.subject):
            yield Proposal(_slots(a, p), Name(of=Target(of=first(events(p, a)))))


def done_first_by(scene: Scene) -> Iterator[Proposal]:
    """What does it to something first."""
    for _, p, b, each in _told(scene, "video"):
        if _is_action(p) and _is_first_by_far(scene, p, "object", each.object):
            yield Proposal(_slots(b, p), Name(of=Subject(of=first(events(p, target=b)))))


def does_next(scene: Scene) -> Iterator[Proposal]:
    """What something does it to once it does so no longer to something else."""
    for a, p, b, each in _told(scene, "video"):
        its = [other for other in _by_start(scene) if (other.subject, other.predicate) == (each.subject, p)]
        then = _next_to_begin(each, its)
        if then is not None and each is [other for other in its if other.object == each.object][-1]:
            program = first(events(p, a, after=Nth(of=events(p, a, b), index=-1)))
            yield Proposal(_slots(a, p, b), Name(of=Target(of=program)))


def does_then(scene: Scene) -> Iterator[Proposal]:
    """What else something does to the same thing once it no longer does the first."""
    for a, p, b, each in _told(scene, "video"):
        ends = (each.subject, each.object)
        theirs = [other for other in _by_start(scene) if (other.subject, other.object) == ends]
        then = _next_to_begin(each, theirs)
        is_first = each is next(other for other in theirs if other.predicate == p)
        if then is not None and is_first and _is_action(p) and _is_action(then.predicate) and then.predicate != p:
            program = first(events(None, a, b, after=first(events(p, a, b))))
            yield Proposal(_slots(a, p, b), Predicate(of=program))


def _by_start(scene: Scene) -> list[Relation]:
    return sorted(scene.record.relations, key=lambda relation: relation.start or 0.0)


def _is_first_by_far(scene: Scene, predicate: str, end: str, id: str | None) -> bool:
    """Whether the first of the relations of a predicate at one end begins clearly before the second one."""
    relations = [each for each in scene.record.relations if each.predicate == predicate and getattr(each, end) == id]
    starts = sorted(each.start or 0.0 for each in relations)
    return len(starts) == 1 or starts[1] - starts[0] >= SECONDS_APART


def _next_to_begin(relation: Relation, relations: list[Relation]) -> Relation | None:
    """The first of the relations, in the order of their starts, that begins once this one is over, if none goes on meanwhile."""
    if relation.start is None or relation.end is None:
        return None
    begun = [each.start or 0.0 for each in relations]
    at = next(index for index, each in enumerate(relations) if each is relation)
    before, after = relations[:at], relations[at + 1 :]
    over = all(each.end is not None and each.end <= relation.start for each in before)
    if not over or not after or begun[at + 1] < relation.end:
        return None
    return after[0] if len(after) == 1 or begun[at + 2] - begun[at + 1] >= SECONDS_APART else None


def whether_does(scene: Scene) -> Iterator[Proposal]:
    """Whether something ever does it to another thing, of those that do it or that it is done to."""
    told = _told(scene, "video")
    for (a, p, _, _), (_, q, b, _) in product(told, told):
        if p == q and a is not b:
            yield Proposal(_slots(a, p, b), Any(of=events(p, a, b)))


def order(scene: Scene) -> Iterator[Proposal]:
    """Which of two things that something does begins first."""
    told = [each for each in _told(scene, "video") if _is_action(each[1]) and _begins_in_the_video(scene, each[3])]
    for (a, p, b, _), (other, q, c, _) in product(told, told):
        if a is other and (p, b) != (q, c):
            program = Order(one=first(events(p, a, b)), other=first(events(q, a, c)))
            yield Proposal(_slots(a, p, b, q=q, c=c.name), program)


def _begins_in_the_video(scene: Scene, relation: Relation) -> bool:
    """Whether the first of its kind between the two begins later than the video."""
    ends = (relation.subject, relation.predicate, relation.object)
    return all(each.start for each in scene.record.relations if (each.subject, each.predicate, each.object) == ends)


def still_does(scene: Scene) -> Iterator[Proposal]:
    """Whether what something does it still does when the video ends."""
    for a, p, b, _ in _told(scene, "video"):
        yield Proposal(_slots(a, p, b), Holds(of=events(p, a, b), at="end"))


def no_longer(scene: Scene) -> Iterator[Proposal]:
    """Whether what the picture shows still holds when the video ends."""
    for a, p, b, _ in _told(scene, "image", "video"):
        try:
            shown = execute(Holds(of=events(p, a, b), at="image"), scene.record).answer
        except IllPosedError:
            continue
        if shown == "yes":
            yield Proposal(_slots(a, p, b), Holds(of=events(p, a, b), at="end"))


def stands_to(scene: Scene) -> Iterator[Proposal]:
    """What the only thing is that something stands in a relation to."""
    for a, p, _, _ in _told(scene, "scene", timed=False):
        yield Proposal(_slots(a, p), Name(of=Target(of=first(events(p, a)))))


def whether_stands_to(scene: Scene) -> Iterator[Proposal]:
    """Whether one thing stands in a relation to another."""
    told = _told(scene, "scene", timed=False)
    for (a, p, _, _), (_, q, b, _) in product(told, told):
        if p == q and a is not b:
            yield Proposal(_slots(a, p, b), Any(of=events(p, a, b)))


def how_many_stand_to(scene: Scene) -> Iterator[Proposal]:
    """How many things stand in a relation to one."""
    for _, p, b, _ in _told(scene, "scene", timed=False):
        yield Proposal(_slots(b, p), Count(of=Subjects(of=events(p, target=b))))


def stands_to_in_view(scene: Scene) -> Iterator[Proposal]:
    """What something stands in a relation to as one view shows it."""
    for a, p, _, each in _told(scene, "scene", timed=False, view=True):
        if each.view is not None and each.view < len(ORDINALS):
            program = Name(of=Target(of=first(events(p, a, at=each.view))))
            yield Proposal(_slots(a, p, view=ORDINALS[each.view]), program)


def _template(name: str, propose: Propose, *wordings: str, family: Family = "relation_interaction") -> Template:
    medium: Medium = "scene" if "stand" in name else "video"
    shown: tuple[Medium, ...] = ("image", "video") if name == "no_longer" else (medium,)
    return Template(family, name, shown, medium, wordings, propose)


PREDICATE_CONSISTENCY = (
    _template(
        "no_longer",
        no_longer,
        "In the picture the {a} is {p} the {b}. Is that still so at the end of the video?",
        "The picture shows the {a} while it is {p} the {b}. When the video ends, is it still?",
        "As in the picture, is the {a} {p} the {b} in the last frame of the video?",
        family="object_consistency",
    ),
)
PREDICATE_CONTINUITY = (
    _template(
        "still_does",
        still_does,
        "When the video ends, is the {a} {p} the {b}?",
        "At some time the {a} is {p} the {b}. Is that so at the end of the video?",
        "Does the last frame find the {a} {p} the {b}?",
        family="object_continuity",
    ),
)
PREDICATE_INTERACTION = (
    _template(
        "does_first",
        does_first,
        "What is the first thing that the {a} is {p}?",
        "Of all things in the video, which is the {a} {p} first?",
        "Over the video, what is the {a} {p} before anything else?",
    ),
    _template(
        "done_first_by",
        done_first_by,
        "What is the first to be {p} the {a}?",
        "In the video, what is {p} the {a} first?",
        "Which object is {p} the {a} before any other is?",
    ),
    _template(
        "does_next",
        does_next,
        "After it was {p} the {b}, what is the {a} {p} next?",
        "First the {a} is {p} the {b}. What is it {p} after that?",
        "The {a} is {p} the {b}, and then something else. What is that?",
    ),
    _template(
        "does_then",
        does_then,
        "First the {a} is {p} the {b}. What does it do with the {b} next?",
        "The {a} begins {p} the {b}. How does it relate to the {b} after that?",
        "At first the {a} is {p} the {b}, later something else. What is that?",
    ),
    _template(
        "whether_does",
        whether_does,
        "Is the {a} ever {p} the {b} in the video?",
        "At any time, is the {a} {p} the {b}?",
        "Does the video ever show the {a} {p} the {b}?",
    ),
    _template(
        "order",
        order,
        "Does the {a} start {p} the {b} before or after it starts {q} the {c}?",
        "When does the {a} begin {p} the {b}: before or after it begins {q} the {c}?",
        "The {a} starts {p} the {b}, and it starts {q} the {c}. Is the former before or after the latter?",
    ),
    _template(
        "stands_to",
        stands_to,
        "What is the {a} {p}?",
        "In this scene, what is the {a} {p}?",
        "Look around the scene: the {a} is {p} what?",
    ),
    _template(
        "whether_stands_to",
        whether_stands_to,
        "Is the {a} {p} the {b}?",
        "In this scene, is the {a} {p} the {b}?",
        "Is it true of this scene that the {a} is {p} the {b}?",
    ),
    _template(
        "how_many_stand_to",
        how_many_stand_to,
        "How many things are {p} the {a}?",
        "Count what is {p} the {a}. How many things are there?",
        "In this scene, how many objects are {p} the {a}?",
    ),
)
PREDICATE_VIEW_DEPENDENCY = (
    _template(
        "stands_to_in_view",
        stands_to_in_view,
        "In the {view} view, what is the {a} {p}?",
        "As the {view} view shows it, the {a} is {p} what?",
        "Look at the {view} view: what is the {a} {p}?",
        family="relation_view_dependency",
    ),
)
PREDICATE_TEMPLATES = PREDICATE_CONSISTENCY + PREDICATE_CONTINUITY + PREDICATE_INTERACTION + PREDICATE_VIEW_DEPENDENCY
