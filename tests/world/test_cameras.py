# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""Cameras: what they are meant to see is in the picture, and they move as their motion is called."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from polyv.world import cameras


_COORDINATES = st.lists(st.tuples(*[st.floats(-1.5, 1.5)] * 3), min_size=1, max_size=12)


def _project(pose: np.ndarray, points) -> np.ndarray:
    """Offsets from the picture's centre in widths of the picture, `[N, 2]`; NaN behind the camera."""
    local = (np.asarray(points, float) - pose[:3, 3]) @ pose[:3, :3]
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(local[:, 2:] > 0, cameras.FOCAL * local[:, :2] / local[:, 2:], np.nan)


@settings(max_examples=50)
@given(_COORDINATES, st.floats(0, 6.28), st.floats(0.2, 1.0), st.floats(0.5, 1.0))
def test_content_fills_the_picture_up_to_its_margin(points, azimuth, elevation, margin):
    points = np.array([*points, (0.0, 0.0, 0.0), (0.1, 0.1, 0.1), (-0.1, 0.1, 0.3)])
    pose = cameras.frame_content(points, azimuth, elevation, margin)
    # One point so far ahead that it alone bounds the sight: the camera would stand in it. Things are wider than that.
    assume(((points - pose[:3, 3]) @ pose[:3, 2]).min() > 1e-6)
    np.testing.assert_allclose(pose[:3, :3] @ pose[:3, :3].T, np.eye(3), atol=1e-12)
    assert np.abs(_project(pose, points)).max() == pytest.approx(margin / 2)


@settings(max_examples=30)
@given(st.floats(0, 6.28), st.floats(-1.2, 1.2))
def test_look_at_puts_its_target_in_the_middle_and_keeps_up_upright(azimuth, elevation):
    pose = cameras.look_at(cameras.direction(azimuth, elevation) * 3, np.zeros(3))
    np.testing.assert_allclose(_project(pose, [[0, 0, 0]]), 0, atol=1e-12)
    assert np.linalg.det(pose[:3, :3]) == pytest.approx(1)
    assert pose[2, 0] == pytest.approx(0)  # x is level
    assert pose[2, 1] < 0  # y points down


@pytest.mark.parametrize(
    ("motion", "axis", "sign"),
    [("left", 0, 1), ("right", 0, -1), ("up", 1, 1), ("down", 1, -1)],
)
def test_content_shifts_against_a_sideways_motion(motion, axis, sign):
    pose = cameras.look_at(np.array([3.0, 1.0, 2.0]), np.zeros(3))
    distance = float(np.linalg.norm(pose[:3, 3]))
    shift = _project(cameras.move(pose, motion, distance), [[0, 0, 0]])[0]
    assert np.sign(shift[axis]) == sign
    assert abs(shift[axis]) > 0.15  # of the picture: clearly to be seen
    assert abs(shift[1 - axis]) < 1e-9


def test_forward_enlarges_and_backward_shrinks():
    pose = cameras.look_at(np.array([3.0, 1.0, 2.0]), np.zeros(3))
    ends = [[0.0, 0.0, 0.2], [0.0, 0.0, -0.2]]
    sizes = {
        motion: np.ptp(_project(cameras.move(pose, motion, 3.7), ends)[:, 1]) / np.ptp(_project(pose, ends)[:, 1])
        for motion in ("forward", "backward")
    }
    assert sizes["forward"] > 1.3
    assert sizes["backward"] < 0.8


def test_ring_sees_everything_from_all_sides():
    points = np.random.default_rng(0).uniform(-1, 1, (20, 3)) * [1, 1, 0.3]
    poses = cameras.ring(points, 6, np.random.default_rng(1))
    for pose in poses:
        assert np.abs(_project(pose, points)).max() <= cameras.MARGIN / 2 + 1e-9
    directions = np.array([pose[:2, 3] / np.linalg.norm(pose[:2, 3]) for pose in poses])
    assert np.linalg.norm(directions.mean(axis=0)) < 0.4


@pytest.mark.parametrize("seed", range(5))
def test_fly_through_starts_beside_the_content_and_moves_steadily(seed):
    points = np.random.default_rng(0).uniform(-1, 1, (20, 3)) * [1, 1, 0.3]
    poses = cameras.fly_through(points, 16, np.random.default_rng(seed))
    first, last = (_project(poses[k], [[0, 0, 0.0]])[0, 0] for k in (0, -1))
    assert first * last < 0  # the gaze passes over the middle
    steps = [np.linalg.norm(a[:3, 3] - b[:3, 3]) for a, b in pairwise(poses)]
    assert 0 < max(steps) < 0.6


def test_record_puts_the_first_pixel_at_zero():
    record = cameras.camera(np.eye(4), 112)
    assert record.intrinsics[0][2] == record.intrinsics[1][2] == 55.5
    assert (record.width, record.height) == (112, 112)
