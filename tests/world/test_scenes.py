# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""Scenes: reproducible, distinct between splits, unambiguous, and balanced."""

from collections import Counter
from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from polyv.world import scenes
from polyv.world.cameras import camera
from polyv.world.physics import MOVED, STILL
from polyv.world.rendering import Renderer


MANY = 40
_WORD = st.integers(0, 2**32 - 1)
_KEY = st.tuples(st.sampled_from(range(len(scenes.SPLITS))), _WORD, _WORD)


@cache
def scene(index: int, split: scenes.Split = "train", seed: int = 0) -> scenes.Scene:
    return scenes.build(split, seed, index)


def test_same_arguments_same_scene():
    first, again = scene(3), scenes.build("train", 0, 3)
    assert first.things == again.things
    assert first.relations == again.relations
    np.testing.assert_array_equal(first.motion.states, again.motion.states)
    np.testing.assert_array_equal(first.video_poses, again.video_poses)
    np.testing.assert_array_equal(first.view_poses, again.view_poses)


def test_splits_seeds_and_indices_differ():
    twins = [scene(0), scene(1), scene(0, seed=1), scene(0, split="validation"), scene(0, split="test")]
    assert len({twin.things for twin in twins}) == len(twins)


@given(_KEY, _KEY)
def test_random_streams_never_coincide(one, other):
    states = [tuple(np.random.SeedSequence(list(key)).generate_state(8).tolist()) for key in (one, other)]
    assert (states[0] == states[1]) == (one == other)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("dev", 0, 0), "split: got 'dev'"),
        (("train", -1, 0), "seed: got -1"),
        (("train", 2**32, 0), "seed: got 4294967296"),
        (("train", 0, -5), "index: got -5"),
    ],
)
def test_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        scenes.build(*arguments)


def test_gives_up_with_the_scene_it_could_not_make(monkeypatch):
    monkeypatch.setattr(scenes, "_DRAFTS", dict.fromkeys(scenes.LAYOUTS, lambda rng, fate: None))
    with pytest.raises(RuntimeError, match="scene 12 of test with seed 4"):
        scenes.build("test", 4, 12)


def test_objects_have_names_of_their_own():
    for index in range(MANY):
        objects = [thing for thing in scene(index).things if not thing.is_furniture]
        assert 2 <= len(objects) <= 5
        assert len({(thing.colour, thing.category) for thing in objects}) == len(objects)
        assert len({thing.id for thing in scene(index).things}) == len(scene(index).things)
        assert {thing.support for thing in scene(index).things} - {None} <= {thing.id for thing in scene(index).things}


def test_everything_moves_clearly_or_not_at_all():
    for index in range(MANY):
        displacement = scene(index).motion.displacement
        assert ((displacement < STILL) | (displacement >= MOVED)).all()
        if scene(index).layout == "static":
            assert displacement.max() < STILL


def test_the_picture_shows_every_object():
    for index in range(MANY):
        made = scene(index)
        renderer = Renderer(made.model, made.things, made.look)
        pixels, visible = renderer.visibility(
            renderer.pose_things(made.motion.states[0]), camera(made.image_pose, 112)
        )
        for thing, count, fraction in zip(made.things, pixels, visible, strict=True):
            assert thing.is_furniture or (count > 40 and fraction > 0.6), (index, thing)


def test_cameras_fly_where_nothing_moves_and_stand_elsewhere():
    for index in range(MANY):
        made = scene(index)
        flies = any((pose != made.video_poses[0]).any() for pose in made.video_poses)
        assert flies == (made.layout == "static")
        assert flies or (made.video_poses[0] == made.image_pose).all()
        assert len(made.view_poses) == scenes.NUM_VIEWS


def test_what_a_layout_is_about_ends_either_way():
    """Of each inferable layout's scenes about half end each way: two thirds would fail."""
    ends: dict[str, Counter] = {layout: Counter() for layout in scenes.LAYOUTS}
    for index in range(2 * MANY):
        predicates = {relation.predicate for relation in scene(index).relations}
        mark = {"ramp": "rolls_down", "edge": "falls_from"}.get(scene(index).layout, "hits")
        ends[scene(index).layout][mark in predicates] += 1
    assert ends["static"][True] == 0
    for layout in ("ramp", "edge"):
        share = ends[layout][True] / ends[layout].total()
        assert 0.25 < share < 0.75, (layout, ends[layout])
    for layout in ("rolling", "collision"):
        assert ends[layout][True] and ends[layout][False]


@pytest.mark.parametrize("layout", scenes.LAYOUTS)
def test_fate_decides(layout):
    """The extreme fates of a layout lead to different ends, whatever else is drawn."""
    moved = []
    for fate in (0.01, 0.99):
        rng = np.random.default_rng(0)
        outcome = None
        for _ in range(50):
            draft = scenes._DRAFTS[layout](rng, fate)
            if draft is None:
                continue
            motion = scenes.simulate(scenes.build_model(draft.things), draft.things)
            if draft.came_true(motion):
                outcome = {(r.predicate) for r in scenes.relations(draft.things, motion)} & {"hits", "falls_from"}
                break
        assert outcome is not None
        moved.append(bool(outcome))
    assert moved == ([False, False] if layout == "static" else [True, False])
