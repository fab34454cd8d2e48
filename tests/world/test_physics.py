# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""Physics: things move as they would, and the relations say just that."""

import mujoco
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polyv.world.physics import FPS, FRAMES, STILL, TIMESTEP, Thing, build_model, relations, simulate


def ball(name="ball", x=0.0, y=0.0, radius=0.2, above=0.0, **more) -> Thing:
    return Thing(name, "ball", "red", "small", (radius,) * 3, (x, y, above + radius), **more)


def box(name="box", x=0.0, y=0.0, half=0.2, above=0.0, **more) -> Thing:
    return Thing(name, "box", "blue", "small", (half,) * 3, (x, y, above + half), **more)


def table(height=0.5) -> Thing:
    return Thing("table", "table", "brown", "large", (0.5, 0.35, height / 2), (0.0, 0.0, height / 2))


def play(*things: Thing):
    motion = simulate(build_model(things), things)
    return motion, relations(things, motion)


def events(found, predicate):
    return [(relation.subject, relation.object) for relation in found if relation.predicate == predicate]


def test_what_rests_stays():
    things = (
        table(),
        box(above=0.5, support="table"),
        ball(x=1.0),
        Thing("c", "cone", "red", "small", (0.2, 0.2, 0.22), (-1, 0, 0.22)),
    )
    motion, found = play(*things)
    assert motion.displacement.max() < STILL
    assert [(r.subject, r.predicate, r.object, r.start) for r in found] == [("box", "on", "table", None)]


def test_frames_are_an_eighth_of_a_second_apart():
    motion, _ = play(ball(velocity=(1.0, 0.0, 0.0)))
    assert motion.states.shape[0] == motion.frame_tracks.shape[0] == FRAMES
    np.testing.assert_allclose(motion.frame_tracks[:, 0], motion.states[:, :3])
    assert motion.frame_tracks[1, 0, 0] == pytest.approx(1.0 / FPS, rel=0.05)


@settings(max_examples=10)
@given(st.floats(1.0, 2.0), st.floats(0.8, 1.2))
def test_ball_hits_when_and_what_it_must(speed, distance):
    _, found = play(ball(velocity=(speed, 0.0, 0.0)), box(x=distance + 0.4), box("far", x=0.0, y=2.0))
    hits = [relation for relation in found if relation.predicate == "hits"]
    assert [(hit.subject, hit.object) for hit in hits] == [("ball", "box")]
    assert hits[0].start == pytest.approx(distance / speed, rel=0.25)  # rolling friction makes it a little late
    assert hits[0].start >= distance / speed - 2 * TIMESTEP
    assert ("ball", None) in events(found, "moves")
    assert ("far", None) not in events(found, "moves")


@pytest.mark.parametrize(("beyond", "falls"), [(0.08, True), (-0.08, False)])
@pytest.mark.parametrize("make", [ball, box])
def test_what_has_its_centre_beyond_the_edge_falls(make, beyond, falls):
    rider = make("rider", x=0.5 + beyond, above=0.5, support="table")
    motion, found = play(table(), rider)
    assert events(found, "falls_from") == ([("rider", "table")] if falls else [])
    assert events(found, "on") == [("rider", "table")]
    if falls:
        fall = next(relation for relation in found if relation.predicate == "falls_from")
        step = round(fall.start / TIMESTEP)
        assert motion.tracks[step, 1, 2] < 0.5 < motion.tracks[max(step - 30, 0), 1, 2]
        assert fall.end > fall.start


def ramp_with(category: str):
    """A slope of 24 degrees without a flat part, and something on it."""
    slope, height = np.deg2rad(24), 0.5
    length = height / np.tan(slope)
    ramp = Thing("ramp", "ramp", "grey", "large", (length / 2, 0.4, height / 2), (0, 0, height / 2), plateau=0.0)
    rise = 0.2
    centre = np.array([0.0, 0.0, height / 2]) + rise * np.array([np.sin(slope), 0, np.cos(slope)])
    tilt = (float(np.cos(slope / 2)), 0.0, float(np.sin(slope / 2)), 0.0)
    return ramp, Thing("rider", category, "red", "small", (rise,) * 3, tuple(centre), tilt, "ramp")


@pytest.mark.parametrize(("category", "rolls"), [("ball", True), ("box", False), ("cylinder", False), ("cone", False)])
def test_balls_roll_down_a_slope_and_others_grip(category, rolls):
    motion, found = play(*ramp_with(category))
    assert events(found, "rolls_down") == ([("rider", "ramp")] if rolls else [])
    assert (motion.displacement[1] > 0.5) == rolls
    assert rolls or motion.displacement[1] < STILL


def test_rolling_down_obeys_the_slope():
    motion, _ = play(*ramp_with("ball"))
    steps = 40
    travelled = np.linalg.norm(motion.tracks[steps, 1] - motion.tracks[0, 1])
    expected = 0.5 * 5 / 7 * 9.81 * np.sin(np.deg2rad(24)) * (steps * TIMESTEP) ** 2  # a rolling sphere
    assert travelled == pytest.approx(expected, rel=0.25)


@settings(max_examples=20)
@given(st.floats(0, 6.28), st.sampled_from(["ball", "box", "cylinder", "cone", "table", "ramp"]))
def test_turning_a_thing_turns_its_outline(angle, category):
    thing = Thing(
        "t", category, "red", "large", (0.3, 0.2, 0.25), (0.5, -0.2, 0.25), plateau=0.1, velocity=(1.0, 0, 0)
    )
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    turned = thing.turned(angle)
    np.testing.assert_allclose(turned.velocity, turn @ thing.velocity, atol=1e-9)
    if category != "ball":  # a ball's outline is that of its bounding box along the world's axes
        np.testing.assert_allclose(turned.outline(), thing.outline() @ turn.T, atol=1e-9)


@pytest.mark.parametrize("category", ["ball", "box", "cylinder", "cone", "table", "ramp"])
def test_outline_bounds_what_mujoco_builds(category):
    thing = Thing("t", category, "red", "large", (0.3, 0.3, 0.25), (0.5, -0.2, 0.25), plateau=0.1)
    model = build_model((thing,))
    low, high = np.full(3, np.inf), np.full(3, -np.inf)
    for geom in np.flatnonzero(model.geom_bodyid == 1):
        matrix = np.empty(9)
        mujoco.mju_quat2Mat(matrix, model.geom_quat[geom])
        centre, half = model.geom_aabb[geom, :3], model.geom_aabb[geom, 3:]
        corners = centre + half * np.array(np.meshgrid(*[(-1, 1)] * 3)).reshape(3, -1).T
        corners = corners @ matrix.reshape(3, 3).T + model.geom_pos[geom] + thing.position
        low, high = np.minimum(low, corners.min(axis=0)), np.maximum(high, corners.max(axis=0))
    outline = thing.outline()
    slack = 0.3 if category == "ramp" else 0.02  # a mesh's box follows its own main axes: it may only be larger
    assert (low < outline.min(axis=0) + 0.02).all() and (low > outline.min(axis=0) - slack).all()
    assert (high > outline.max(axis=0) - 0.02).all() and (high < outline.max(axis=0) + slack).all()
