# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""Hits and falls are asked about only where a viewer of the video cannot take them for something else."""

from collections import defaultdict

import numpy as np

from polyv.csqa.balance import Balance
from polyv.world.questions import ask
from polyv.world.records import WorldRecord, WorldRelation
from tests.world.factory import Thing, record


def answers_to(scene: WorldRecord, partner: WorldRecord | None = None) -> dict[str, set[str]]:
    """All answers that a scene can be given, by template."""
    answers: defaultdict[str, set[str]] = defaultdict(set)
    for seed in range(8):
        for question in ask(scene, np.random.default_rng(seed), Balance(), 9, partner):
            answers[question.template].add(question.answer)
    return answers


def struck(speed: float, gap: float = 0.0, hits: bool = True) -> WorldRecord:
    """A red ball that goes right by `speed` metres a frame for a second, then stops `gap` before a blue cylinder."""
    start = -0.4 - gap - 8 * speed
    things = [
        Thing("red", "ball", (start, 0.0, 0.2), step=(speed, 0.0, 0.0), until=8),
        Thing("blue", "cylinder", (0.0, 0.0, 0.2)),
        Thing("green", "cone", (0.0, 1.5, 0.2)),
    ]
    moves = WorldRelation(subject="object_0", predicate="moves", object=None, start=0.0, end=1.0)
    hit = WorldRelation(subject="object_0", predicate="hits", object="object_1", start=1.0, end=1.1)
    return record(things, (moves, hit) if hits else (moves,))


def test_only_hits_and_misses_that_show_are_asked_about():
    other = record([Thing("red", "ball", (0.0, 0.0, 0.2)), Thing("blue", "box", (1.0, 0.0, 0.2))])
    plain = answers_to(struck(0.1), other)
    assert (plain["hit_what"], plain["which_collides"]) == ({"blue"}, {"first"})
    missed = answers_to(struck(0.1, gap=0.1, hits=False), struck(0.1))
    assert (missed["hit_what"], missed["which_collides"]) == ({"nothing"}, {"second"})
    for doubtful in (struck(0.03), struck(0.1, gap=0.02, hits=False)):
        answers = answers_to(doubtful, other)
        assert answers["does_move"] == {"yes", "no"}
        assert not answers["hit_what"] and not answers["which_collides"]
        assert not answers_to(other, doubtful)["which_collides"]


def test_toppling_where_it_stands_is_not_asked_about_as_a_fall():
    scene = struck(0.1)
    low = tuple((*place[:2], place[2] - 0.05 * (frame > 8)) for frame, place in enumerate(scene.objects[1].track))
    toppled = scene.objects[1].model_copy(update={"track": low})
    tipped = scene.model_copy(update={"objects": (scene.objects[0], toppled, scene.objects[2])})
    fallen = WorldRelation(subject="object_0", predicate="falls_from", object="object_1", start=0.5, end=0.8)
    falls = struck(0.1).model_copy(update={"relations": (*scene.relations, fallen)})
    assert answers_to(scene, falls)["anything_falls"] == {"no"}
    assert answers_to(scene, falls)["which_falls"] == {"second"}
    assert answers_to(tipped, falls)["hit_what"] == {"blue"}
    assert not answers_to(tipped, falls)["anything_falls"] and not answers_to(tipped, falls)["which_falls"]
    assert answers_to(falls, tipped)["anything_falls"] == {"yes"} and not answers_to(falls, tipped)["which_falls"]
