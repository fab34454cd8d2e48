# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""Executes question programs on scene graphs: the answer, what it rests on, and wrong answers that are true of
something else in the scene."""

from typing import Any, NamedTuple

import numpy as np

from polyv.csqa import programs, sight
from polyv.csqa.looks import IllPosedError, Looks, box, known, sure
from polyv.csqa.records import Record, Relation, SceneObject, SceneRecord


NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")

# The larger of two heights, or of two ways, must be at least this many times the other one.
_HEIGHT_RATIO = 1.35
_TRAVEL_RATIO = 1.5
# Metres, and pixels of the picture's width, by which one shows beside another.
_BESIDE = 0.06
_OPPOSITES = {
    "yes": ("no",),
    "no": ("yes",),
    "left": ("right",),
    "right": ("left",),
    "before": ("after",),
    "after": ("before",),
    "ahead": ("behind",),
    "front": ("behind",),
}
# Seconds between two events of which one can tell the order, and from when one holds, or no longer does.
SECONDS_APART = 0.5
_DIRECTIONS = ("left", "right", "towards", "away")


class Support(Record):
    """What an answer rests on.

    Attributes:
        objects: ids.
        relations: indices into the record's relations.
        times: (start, end) seconds of these, where known.
        views: indices of posed views.
    """

    objects: tuple[str, ...] = ()
    relations: tuple[int, ...] = ()
    times: tuple[tuple[float, float], ...] = ()
    views: tuple[int, ...] = ()


class Answer(Record):
    """What a program gives: one word or name, its support, and distractors, in the order of the alphabet."""

    answer: str
    support: Support
    distractors: tuple[str, ...]


class _Event(NamedTuple):
    number: int
    relation: Relation
    subject: SceneObject
    target: SceneObject | None
    start: float
    earliest: float  # when it may have begun


def execute(program: Any, record: SceneRecord) -> Answer:
    """Compute a program's answer.

    Args:
        program: a `programs.Word`.
        record: the scene graph.

    Raises:
        IllPosedError: the scene has no certain answer: a description fits none or several, two quantities are nearly the same,
            something is neither in plain view nor hidden, or the graph does not tell what is asked for.
    """
    run = _Execution(record)
    answer = run.value(program)
    return Answer(answer=answer, support=run.support(), distractors=tuple(sorted(run.distractors(program, answer))))


class _Execution:
    """One execution. Each operation is a method of its `op`'s name."""

    def __init__(self, record: SceneRecord):
        self.record = record
        self.looks = Looks(record)
        self.by_id = {thing.id: thing for thing in record.objects}
        self.used_objects: dict[str, None] = {}
        self.used_relations: dict[int, None] = {}

    def value(self, node: Any) -> Any:
        """Of any operation: objects, an object, events, an event, or a word."""
        return getattr(self, f"_{node.op}")(node)

    def support(self) -> Support:
        used = [self.record.relations[index] for index in self.used_relations]
        last = self.looks.last_second()
        times = [
            (relation.start, last if relation.end is None else relation.end)
            for relation in used
            if relation.start is not None
        ]
        return Support(
            objects=tuple(self.used_objects),
            relations=tuple(self.used_relations),
            times=tuple((start, end if end is not None else start) for start, end in times),
            views=tuple(self.looks.used_views),
        )

    def _use(self, thing: SceneObject) -> SceneObject:
        self.used_objects.setdefault(thing.id)
        return thing

    def _use_event(self, event: _Event) -> _Event:
        self.used_relations.setdefault(event.number)
        return event

    # --- some objects

    def _objects(self, node: programs.AllObjects) -> list[SceneObject]:
        return [
            thing
            for thing in self.record.objects
            if node.category in (None, thing.category) and node.attributes.items() <= thing.attributes.items()
        ]

    def _subjects(self, node: programs.Subjects) -> list[SceneObject]:
        return _once(self._use_event(event).subject for event in self.value(node.of))

    def _targets(self, node: programs.Targets) -> list[SceneObject]:
        events = self.value(node.of)
        return _once(target for event in events if (target := self._use_event(event).target) is not None)

    def _those(self, node: programs.Those) -> list[SceneObject]:
        return _once(self.value(one) for one in node.of)

    def _without(self, node: programs.Without) -> list[SceneObject]:
        but = {thing.id for thing in self.value(node.but)}
        return [thing for thing in self.value(node.of) if thing.id not in but]

    # --- one object

    def _the(self, node: programs.The) -> SceneObject:
        things = self.value(node.of)
        if len(things) != 1:
            raise IllPosedError("the description fits {} objects, expected one", len(things) or "no")
        return self._use(things[0])

    def _subject(self, node: programs.Subject) -> SceneObject:
        return self._use(self.value(node.of).subject)

    def _target(self, node: programs.Target) -> SceneObject:
        target = self.value(node.of).target
        if target is None:
            raise IllPosedError("the event has no object that it is done to")
        return self._use(target)

    def _extreme(self, node: programs.Extreme) -> SceneObject:
        things = self.value(node.of)
        if len(things) < 2:
            raise IllPosedError("a comparison of fewer than two objects")
        exceeds = getattr(self, f"_exceeds_by_{node.by.op}")(node.by, things)
        for one in things:
            others = [other for other in things if other is not one]
            if all(exceeds(*((one, other) if node.order == "most" else (other, one))) for other in others):
                for other in others:
                    self._use(other)
                return self._use(one)
        raise IllPosedError(f"no object has surely the {node.order} {node.by.op}")

    def _exceeds_by_height(self, node: programs.Height, things: list[SceneObject]):
        heights = {thing.id: known(thing.extent, "extent", thing)[2] for thing in things}
        return lambda one, other: heights[one.id] >= _HEIGHT_RATIO * heights[other.id]

    def _exceeds_by_travel(self, node: programs.Travel, things: list[SceneObject]):
        for thing in things:
            if not thing.track:
                raise IllPosedError("the track of {} is not known", thing.name)
        ways = {thing.id: sight.travel(thing) for thing in things}
        return lambda one, other: ways[one.id] >= _TRAVEL_RATIO * ways[other.id] + 0.15

    def _exceeds_by_distance(self, node: programs.Distance, things: list[SceneObject]):
        to = self.value(node.to)
        if any(thing is to for thing in things):
            raise IllPosedError("the distance of an object from itself")
        return self._farther(things, *box(to), sight.MARGIN)

    def _exceeds_by_depth(self, node: programs.Depth, things: list[SceneObject]):
        camera = self.looks.camera(node.at)
        return self._farther(things, np.asarray(camera.pose)[:3, 3], np.zeros(3), sight.CAMERA_MARGIN)

    def _farther(self, things: list[SceneObject], centre: np.ndarray, half: np.ndarray, margin: float):
        spans = {}
        for thing in things:
            its_centre, its_half = box(thing)
            offset = np.abs(its_centre - centre)
            spans[thing.id] = (np.linalg.norm(offset), np.linalg.norm(np.clip(offset - its_half - half, 0, None)))

        def farther(one: SceneObject, other: SceneObject) -> bool:
            (centres, gap), (other_centres, other_gap) = spans[one.id], spans[other.id]
            return bool(centres >= margin * other_centres and gap > other_gap)

        return farther

    def _exceeds_by_first_seen(self, node: programs.FirstSeen, things: list[SceneObject]):
        return self.looks.seen_later(things)

    def _exceeds_by_last_seen(self, node: programs.LastSeen, things: list[SceneObject]):
        return self.looks.seen_longer(things)

    # --- events

    def _events(self, node: programs.SomeEvents) -> list[_Event]:
        if node.predicate is not None and not self.record.tells_of(node.predicate):
            raise IllPosedError("the graph does not tell of {}", node.predicate)
        return self._told(node)

    def _told(self, node: programs.SomeEvents) -> list[_Event]:
        """The events that the graph tells of, be it all there are or not."""
        subject = None if node.subject is None else self.value(node.subject)
        target = None if node.target is None else self.value(node.target)
        self._refuse_doubt(node.predicate, subject, target)
        after = None if node.after is None else self.value(node.after).start
        before = None if node.before is None else self.value(node.before).start
        found = [
            event
            for event in self._all_events()
            if node.predicate in (None, event.relation.predicate)
            and (subject is None or event.subject is subject)
            and (target is None or event.target is target)
            and (after is None or event.start > after)
            and (before is None or event.start < before)
            and event.relation.view == node.at
        ]
        if node.at is not None:
            self.looks.used_views.setdefault(node.at)
        if after is not None and any(event.earliest < after for event in found):
            raise IllPosedError("which event comes first is not known")
        return sorted(found, key=lambda event: event.start)

    def _all_events(self) -> list[_Event]:
        return [
            _Event(
                index,
                each,
                self.by_id[each.subject],
                self.by_id.get(each.object or ""),
                each.start or 0.0,
                (each.start or 0.0) if each.not_before is None else each.not_before,
            )
            for index, each in enumerate(self.record.relations)
        ]

    def _refuse_doubt(self, predicate: str | None, subject: SceneObject | None, target: SceneObject | None) -> None:
        asked = [thing for thing in (subject, target) if thing is not None] or self.record.objects
        for thing in asked:
            if thing.doubtful if predicate is None else predicate in thing.doubtful:
                raise IllPosedError("a viewer may doubt what {} does", thing.name)

    def _nth(self, node: programs.Nth) -> _Event:
        # When two things are first seen so is told; what else is so, only where all is.
        named = node.of.subject is not None and node.of.target is not None
        events = self._told(node.of) if named else self._events(node.of)
        if not -len(events) <= node.index < len(events):
            raise IllPosedError("there are {} such events, none of index {}", len(events), node.index)
        event = events[node.index]
        if len(events) > 1 and any(
            other.relation.start is None or (other is not event and other.start == event.start) for other in events
        ):
            raise IllPosedError("which event comes first is not known")
        return self._use_event(event)

    # --- words

    def _attribute(self, node: programs.Attribute) -> str:
        thing = self.value(node.of)
        value = thing.category if node.name == "category" else thing.attributes.get(node.name)
        return known(value, node.name, thing)

    def _name(self, node: programs.Name) -> str:
        thing = self.value(node.of)
        if sum(other.name == thing.name for other in self.record.objects) > 1:
            raise IllPosedError("several objects are called {}", thing.name)
        return thing.name

    def _count(self, node: programs.Count) -> str:
        found = self._used(self.value(node.of))
        if len(found) >= len(NUMBERS):
            raise IllPosedError("{} are too many to count", len(found))
        return NUMBERS[len(found)]

    def _any(self, node: programs.Any) -> str:
        return _yes(bool(self._used(self.value(node.of))))

    def _used(self, found: list) -> list:
        return [self._use_event(one) if isinstance(one, _Event) else self._use(one) for one in found]

    def _predicate(self, node: programs.Predicate) -> str:
        return self.value(node.of).relation.predicate

    def _order(self, node: programs.Order) -> str:
        one, other = self.value(node.one), self.value(node.other)
        if one.relation.start is None or other.relation.start is None:
            raise IllPosedError("when it happens is not known")
        if one.start + SECONDS_APART <= other.earliest:
            return "before"
        return sure(
            "after" if other.start + SECONDS_APART <= one.earliest else None, "both begin at about the same time"
        )

    def _holds(self, node: programs.Holds) -> str:
        last = self.looks.last_second()
        at = 0.0 if node.at == "start" else last if node.at == "end" else self.looks.image_second()
        if at is None or last is None:
            raise IllPosedError("when the {} is, is not known", node.at)
        early, late = max(at - SECONDS_APART, 0.0), min(at + SECONDS_APART, last)
        for event in self._events(node.of):
            end = last if event.relation.end is None else event.relation.end
            if event.start <= late and end >= early:
                self._use_event(event)
                return sure("yes" if event.start <= early and end >= late else None, "it is about to change")
        return "no"

    def _side(self, node: programs.Side) -> str:
        return sure(sight.side_of(self._bearing(node)), "too near to straight ahead or behind")

    def _ahead(self, node: programs.Ahead) -> str:
        return sure(sight.ahead_of(self._bearing(node)), "rather to the side")

    def _bearing(self, node: programs.Side | programs.Ahead) -> float:
        standing, facing, target = (self.value(part) for part in (node.standing, node.facing, node.target))
        if not (sight.apart(standing, facing) and sight.apart(standing, target)) or facing is target:
            raise IllPosedError("the three objects do not stand apart")
        return sight.bearing(standing.position, facing.position, target.position)

    def _beside(self, node: programs.Beside) -> str:
        target, beside = self.value(node.target), self.value(node.beside)
        camera = self.looks.camera(node.at)
        (x0, _, x1, _), (other_x0, _, other_x1, _) = (
            self.looks.clear(thing, node.at).box or (0, 0, 0, 0) for thing in (target, beside)
        )
        shift = (x0 + x1 - other_x0 - other_x1) / 2 / camera.width
        if abs(shift) < _BESIDE or (x0 - other_x0) * (x1 - other_x1) <= 0:
            raise IllPosedError("neither is surely left of the other")
        return "right" if shift > 0 else "left"

    def _in_front(self, node: programs.InFront) -> str:
        target, than = self.value(node.target), self.value(node.than)
        (x0, _, x1, _), (other_x0, _, other_x1, _) = (
            self.looks.clear(thing, node.at).box or (0, 0, 0, 0) for thing in (target, than)
        )
        if min(x1, other_x1) <= max(x0, other_x0):
            raise IllPosedError("they do not show one behind the other")
        farther = self._exceeds_by_depth(programs.Depth(at=node.at), [target, than])
        if farther(than, target):
            return "front"
        return sure("behind" if farther(target, than) else None, "both are about as far from the camera")

    def _seen(self, node: programs.Seen) -> str:
        thing = self.value(node.of)
        look = self.looks.look(thing, node.at)
        if sight.is_hidden(look):
            return "no"
        return sure("yes" if sight.is_clear(look, self.looks.camera_or_none(node.at)) else None, "it shows a little")

    def _hidden(self, node: programs.Hidden) -> str:
        thing = self.value(node.of)
        look, camera = self.looks.look(thing, node.at), self.looks.camera(node.at)
        if sight.is_clear(look, camera):
            return "no"
        looked_at = sight.lies_in(box(thing), camera)
        return sure(
            "yes" if looked_at and sight.is_hidden(look) else None, "it shows a little, or the view looks past it"
        )

    def _direction(self, node: programs.Direction) -> str:
        thing = self.value(node.of)
        for event in self._events(programs.SomeEvents(predicate="moves")):
            if event.subject is thing:
                self._use_event(event)
        if self.looks.last_second() is None:
            raise IllPosedError("when the frames were taken is not known")
        return sure(sight.direction(self.record, thing), "it goes no way that one could name")

    def _rests_on(self, node: programs.RestsOn) -> str:
        thing = self.value(node.of)
        self._refuse_doubt("on", thing, None)
        if thing.in_video:
            self.looks.clear(thing, node.at)  # nobody can tell of what does not show then
        last = self.looks.last_second()
        held = [
            event
            for event in self._all_events()
            if event.relation.predicate == "on"
            and event.subject is thing
            and (
                event.start <= 0
                if node.at == "start"
                else event.relation.end is None or (last is not None and event.relation.end >= last)
            )
        ]
        if len(held) != 1:
            raise IllPosedError("{} rests on {} things that are known", thing.name, len(held) or "no")
        under = self._use_event(held[0])
        return self._use(under.target).name if under.target is not None else str(under.relation.object)

    def _whether(self, node: programs.Whether) -> str:
        return _yes(self.value(node.one) == self.value(node.other))

    def _reappears(self, node: programs.Reappears) -> str:
        return _yes(self.looks.reappears(self.value(node.of)))

    # --- wrong answers

    def distractors(self, program: Any, answer: str) -> set[str]:
        """Other answers of the same kind, true of something else in the scene where there is such a thing."""
        record = self.record
        words: set[str] = set(_OPPOSITES.get(answer, ()))
        if isinstance(program, programs.Attribute):
            things = record.objects
            name = program.name
            values = {thing.category if name == "category" else thing.attributes.get(name) for thing in things}
            words = {value for value in values if value}
        elif isinstance(program, programs.Name | programs.RestsOn):
            words = {thing.name for thing in record.objects}
            # Nothing hits itself, or rests on itself.
            if isinstance(program, programs.RestsOn) or isinstance(program.of, programs.Subject | programs.Target):
                words -= {self.by_id[used].name for used in self.used_objects}
        elif isinstance(program, programs.Predicate):
            words = {relation.predicate for relation in record.relations}
        elif isinstance(program, programs.Direction):
            words = set(_DIRECTIONS)
        elif isinstance(program, programs.Count):
            number = NUMBERS.index(answer)
            words = set(NUMBERS[max(number - 1, 0) : number + 2])
        elif answer == "behind":
            words = {"ahead" if isinstance(program, programs.Ahead) else "front"}
        return words - {answer}


def _once(things) -> list[SceneObject]:
    return list({thing.id: thing for thing in things}.values())


def _yes(value: bool) -> str:
    return "yes" if value else "no"
