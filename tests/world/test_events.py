# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""What a viewer can tell of a hit, from tracks made by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polyv.world.events import changes_height, hit_shows, least_gap
from polyv.world.records import WorldObject
from tests.world.factory import FPS, FRAMES, Thing, record


def thing(category: str = "ball", start=(0.0, 0.0, 0.2), step=(0.0, 0.0, 0.0), until: int = FRAMES) -> WorldObject:
    return record([Thing("red", category, start, 0.4, step, until)]).objects[0]


@pytest.mark.parametrize(
    ("speed", "shove", "shows"), [(0.8, 0.0, True), (0.2, 0.0, False), (0.2, 0.02, True), (0.2, 0.002, False)]
)
def test_a_hit_shows_by_its_speed_or_its_shove(speed, shove, shows):
    mover = thing(start=(-0.4 - speed, 0.0, 0.2), step=(speed / FPS, 0.0, 0.0), until=8)
    target = thing("box")
    shoved = tuple((max(frame - 8, 0) * shove, 0.0, 0.2) for frame in range(FRAMES))
    assert hit_shows(mover, target.model_copy(update={"track": shoved}), 1.0, FPS) == shows


def test_brushing_past_and_touching_at_the_end_do_not_show():
    target = thing("box")
    past = thing(start=(-1.2, 0.4, 0.2), step=(0.15, 0.0, 0.0))
    assert not hit_shows(past, target, 1.0, FPS), "fast, but alongside: the distance hardly shrinks"
    late = thing(start=(-2.6, 0.0, 0.2), step=(0.15, 0.0, 0.0), until=15)
    assert not hit_shows(late, target, 1.85, FPS) and hit_shows(late, target, 1.7, FPS)


@given(st.floats(0.0, 1.0), st.sampled_from(["ball", "box", "cylinder", "cone"]))
def test_gap_of_two_at_rest_is_what_lies_between_them(gap, category):
    assert least_gap(thing(), thing(category, (0.4 + gap, 0.0, 0.2)), FPS) == pytest.approx(gap, abs=1e-9)


def test_gap_is_taken_between_the_frames_and_after_the_clip():
    target = thing()
    between = thing(start=(-1.0, 0.5, 0.2), step=(0.4, 0.0, 0.0))
    assert least_gap(between, target, FPS) == pytest.approx(0.1), "passes at 2.5 frames"
    rolling_on = thing(start=(-2.0, 0.0, 0.2), step=(0.1, 0.0, 0.0))
    assert least_gap(rolling_on, target, FPS) < 0
    stopped = thing(start=(-2.0, 0.0, 0.2), step=(0.1, 0.0, 0.0), until=14)
    assert least_gap(stopped, target, FPS) == pytest.approx(0.2)
    above = thing(start=(-1.0, 0.0, 0.8), step=(0.1, 0.0, 0.0))
    assert least_gap(above, target, FPS) == pytest.approx(0.2), "over it and away"


@given(st.floats(-0.02, 0.02))
def test_height_changes_by_more_than_simulation_noise(rise):
    assert changes_height(thing(step=(0.0, 0.0, rise))) == (abs(rise) * (FRAMES - 1) > 0.03)
