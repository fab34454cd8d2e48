# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""What a kind of question is made of, and the parts that all kinds share."""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import islice, permutations
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

from polyv.csqa import programs
from polyv.csqa.executor import Answer, execute
from polyv.csqa.looks import IllPosedError, Looks
from polyv.csqa.records import SceneObject, SceneRecord


Family = Literal["object_consistency", "object_continuity", "relation_interaction", "relation_view_dependency"]
FAMILIES: tuple[Family, ...] = get_args(Family)
Medium = Literal["image", "video", "scene"]
# Proposals of a template that are tried in one scene: rare answers are among the later ones.
_TRIES = 64
ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")


class Proposal(NamedTuple):
    """One way to ask a template of a scene: words for its wordings, and the program that answers it."""

    slots: dict[str, str]
    program: Any


class Question(NamedTuple):
    """A proposal that is well-posed, with its answer."""

    template: "Template"
    proposal: Proposal
    answer: Answer


class Scene:
    """A scene graph, as templates look at it: what can be named in which medium, in an order drawn by `rng`."""

    def __init__(self, record: SceneRecord, rng: np.random.Generator):
        self.record = record
        self.looks = Looks(record)
        self.rng = rng

    def clear(self, *media: Medium) -> list[SceneObject]:
        """Objects that one can name, fixtures left out, in plain view in each of the media."""
        things = [thing for thing in self.named if not thing.fixture]
        return [thing for thing in things if all(self._is_clear(thing, medium) for medium in media)]

    def pairs(self, *media: Medium) -> list[tuple[SceneObject, ...]]:
        """Pairs of them, in either order."""
        return self._shuffled(permutations(self.clear(*media), 2))

    def triples(self, *media: Medium) -> list[tuple[SceneObject, ...]]:
        """Triples of them, in any order."""
        return self._shuffled(permutations(self.clear(*media), 3))

    def _shuffled(self, tuples: Iterable[tuple[SceneObject, ...]]) -> list[tuple[SceneObject, ...]]:
        ordered = list(tuples)
        return [ordered[i] for i in self.rng.permutation(len(ordered))]

    def views(self) -> list[int]:
        """Indices of the posed views."""
        return self.rng.permutation(min(len(self.record.view_cameras), len(ORDINALS))).tolist()

    def happened(self, predicate: str) -> list[tuple[SceneObject, SceneObject | None, float]]:
        """(subject, target, start) of the relations of a predicate that begin in the video."""
        by_id = {thing.id: thing for thing in self.record.objects}
        return [
            (by_id[each.subject], by_id.get(each.object or ""), each.start)
            for each in self.record.relations
            if each.predicate == predicate and each.start is not None
        ]

    def support(self, thing: SceneObject) -> str | None:
        """What an object rests on at the start, as a question calls it, if that is known."""
        by_id = {other.id: other.name for other in self.record.objects}
        held = [
            relation.object
            for relation in self.record.relations
            if relation.predicate == "on" and relation.subject == thing.id and not relation.start
        ]
        return by_id.get(held[0], held[0]) if len(held) == 1 and held[0] is not None else None

    @cached_property
    def camera_stands(self) -> bool:
        """Whether the video's camera stands still, as far as that is known."""
        return len({camera.pose for camera in self.record.video_cameras}) <= 1

    @cached_property
    def named(self) -> list[SceneObject]:
        """Objects that have a name to themselves."""
        names = Counter(thing.name for thing in self.record.objects)
        things = [thing for thing in self.record.objects if names[thing.name] == 1]
        return [things[i] for i in self.rng.permutation(len(things))]

    @cached_property
    def _clear(self) -> dict[tuple[str, str], bool]:
        return {}

    def _is_clear(self, thing: SceneObject, medium: Medium) -> bool:
        key = (thing.id, medium)
        if key not in self._clear:
            self._clear[key] = self.looks.is_clear_in(thing, medium)
        return self._clear[key]


Propose = Callable[[Scene], Iterable[Proposal]]


@dataclass(frozen=True)
class Template:
    """One kind of question.

    Attributes:
        family: which of the four it belongs to.
        name: unique within its family.
        shown: what the question is asked of, in this order.
        needed: the medium that its answer is computed from. Where that is not `shown`, the answer has to be inferred: a
            synergy question.
        wordings: ways to say the same, with the slots in braces.
        propose: candidates, in an order that tells nothing; ill-posed ones among them are left out.
        foreseen: the predicate that the image has to tell of, where the video is not shown.
    """

    family: Family
    name: str
    shown: tuple[Medium, ...]
    needed: Medium
    wordings: tuple[str, ...]
    propose: Propose
    foreseen: str | None = None

    @property
    def is_synergy(self) -> bool:
        """Whether the medium that the answer needs is not shown."""
        return self.needed not in self.shown

    def fits(self, record: SceneRecord) -> bool:
        """Whether the scene has the media, and its image tells what the question asks it to foresee."""
        media = {*self.shown, self.needed}
        has = all(getattr(record.media, medium) is not None for medium in media)
        return has and (self.foreseen is None or self.foreseen in record.foreseeable)

    def ask(self, scene: Scene, each: int = 2, refused: Counter[str] | None = None) -> list[Question]:
        """Well-posed questions, at most `each` of one answer; `refused` counts why others are not."""
        found: list[Question] = []
        given: Counter[str] = Counter()
        for proposal in islice(self.propose(scene), _TRIES) if self.fits(scene.record) else ():
            try:
                answer = execute(proposal.program, scene.record)
            except IllPosedError as error:
                if refused is not None:
                    refused[error.cause.format(*"…" * 3)] += 1
                continue
            given[answer.answer] += 1
            if given[answer.answer] <= each:
                found.append(Question(self, proposal, answer))
        return found


def refer(thing: SceneObject) -> programs.The:
    """An object by what a question calls it."""
    colour = thing.attributes.get("colour")
    attributes = {} if colour is None else {"colour": colour}
    return programs.The(of=programs.AllObjects(category=thing.category, attributes=attributes))


def either(*things: SceneObject) -> programs.Those:
    """Some objects by what a question calls them."""
    return programs.Those(of=tuple(refer(thing) for thing in things))


def events(
    predicate: str | None, subject: SceneObject | None = None, target: SceneObject | None = None, **more: Any
) -> programs.SomeEvents:
    """Relations of a predicate, of a named subject and target."""
    return programs.SomeEvents(
        predicate=predicate,
        subject=None if subject is None else refer(subject),
        target=None if target is None else refer(target),
        **more,
    )


def first(of: programs.SomeEvents) -> programs.Nth:
    """The earliest of them."""
    return programs.Nth(of=of, index=0)
