# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""Rendering: depth, segmentation and poses agree with the geometry, and the light falls as it should."""

import numpy as np
import pytest

from polyv.world import cameras
from polyv.world.physics import Thing, build_model
from polyv.world.rendering import FLOOR, SKY, Look, Renderer, visible_box


TONES = np.array([(0.8, 0.8, 0.8), (0.4, 0.4, 0.4)], np.float32)
LOOK = Look(light=np.array([2.0, -2.0, 6.0]), tones=TONES, offset=np.zeros(2))
BALL = Thing("ball", "ball", "red", "large", (0.3, 0.3, 0.3), (0.0, 0.0, 0.3))
BOX = Thing("box", "box", "blue", "large", (0.2, 0.2, 0.2), (0.8, 0.5, 0.2))
CONE = Thing("cone", "cone", "green", "large", (0.25, 0.25, 0.3), (-0.7, 0.4, 0.3))
TABLE = Thing("table", "table", "brown", "large", (0.4, 0.3, 0.25), (0.0, 1.2, 0.25))
EYE = np.array([0.5, -3.5, 1.8])


def shoot(*things: Thing, eye=EYE, target=(0.0, 0.0, 0.2), size=112):
    renderer = Renderer(build_model(things), things, LOOK)
    data = renderer.pose_things(renderer.model.qpos0)
    view = cameras.camera(cameras.look_at(np.array(eye, float), np.array(target, float)), size)
    return renderer, data, view, renderer.render(data, view)


def unproject(frame, view) -> np.ndarray:
    """World points `[H, W, 3]` from depth and camera by the textbook formula, apart from the renderer's own rays."""
    k, pose = np.array(view.intrinsics), np.array(view.pose)
    v, u = np.mgrid[: view.height, : view.width]
    local = np.stack([(u - k[0, 2]) / k[0, 0], (v - k[1, 2]) / k[1, 1], np.ones(u.shape)], axis=-1)
    return (local * frame.depth[..., None]) @ pose[:3, :3].T + pose[:3, 3]


@pytest.mark.parametrize("eye", [EYE, (3.0, 2.0, 1.0), (-0.5, 1.0, 4.0)])
def test_depth_lies_on_the_surfaces(eye):
    _, _, view, frame = shoot(BALL, BOX, CONE, eye=eye)
    points = unproject(frame, view)
    on_ball = points[frame.segments == 0]
    assert len(on_ball) > 100
    np.testing.assert_allclose(np.linalg.norm(on_ball - BALL.position, axis=1), 0.3, atol=1e-3)
    on_box = np.abs(points[frame.segments == 1] - BOX.position)
    np.testing.assert_allclose(on_box.max(axis=1), 0.2, atol=1e-3)
    np.testing.assert_allclose(points[frame.segments == FLOOR][:, 2], 0, atol=1e-3)
    on_cone = points[frame.segments == 2] - CONE.position
    radius = np.linalg.norm(on_cone[:, :2], axis=1)
    np.testing.assert_allclose(radius, 0.25 * (0.3 - on_cone[:, 2]) / 0.6, atol=0.01)


def test_two_views_agree():
    """Points of one view, seen from the other where nothing hides them, have that view's depth."""
    renderer, data, one, frame = shoot(BALL, BOX, TABLE)
    other = cameras.camera(cameras.look_at(np.array([1.5, -3.0, 2.2]), np.array([0.0, 0.0, 0.2])), 112)
    second = renderer.render(data, other)
    points = unproject(frame, one)[frame.segments >= 0]
    pose, k = np.array(other.pose), np.array(other.intrinsics)
    local = (points - pose[:3, 3]) @ pose[:3, :3]
    u, v = (np.round(local[:, axis] / local[:, 2] * k[axis, axis] + k[axis, 2]).astype(int) for axis in (0, 1))
    inside = (u >= 0) & (u < 112) & (v >= 0) & (v < 112)
    error = np.abs(second.depth[v[inside], u[inside]] - local[inside, 2])
    assert inside.mean() > 0.9
    assert np.median(error) < 0.01
    assert (error < 0.03).mean() > 0.6  # the rest is hidden from the other side


def test_sky_has_no_depth():
    _, _, _, frame = shoot(BALL, target=(0.5, 0.0, 2.5))
    assert (frame.segments[0] == SKY).all()
    np.testing.assert_array_equal(frame.depth == 0, frame.segments == SKY)
    sky = frame.colour[frame.segments == SKY].astype(int)
    assert (sky[:, 2] >= sky[:, 0]).all()  # bluish


def test_culled_rays_hit_what_mujoco_alone_says():
    things = (
        BALL,
        BOX,
        CONE,
        TABLE,
        Thing("ramp", "ramp", "grey", "large", (0.8, 0.3, 0.25), (-1, -1, 0.25), plateau=0.5),
    )
    renderer, data, _, _ = shoot(*things)
    rays = np.random.default_rng(0).normal(size=(20000, 3))
    rays /= np.linalg.norm(rays, axis=1, keepdims=True)
    for origin in (EYE, LOOK.light, np.array([0.1, 0.0, 0.9])):  # the last one within bounding spheres
        quick, slow = renderer._cast(data, origin, rays), renderer._cast_all(data, origin, rays)
        np.testing.assert_array_equal(quick[0], slow[0])
        hit = slow[0] >= 0
        assert len(np.unique(slow[0])) > 3
        np.testing.assert_allclose(quick[1][hit], slow[1][hit], atol=1e-9)
        np.testing.assert_allclose(quick[2][hit], slow[2][hit], atol=1e-9)


def test_visible_fraction_counts_what_is_hidden():
    wall = Thing("wall", "box", "blue", "large", (0.3, 0.05, 0.4), (0.3, -0.6, 0.4))  # before the ball's right half
    eye, target = np.array([0.0, -6.0, 0.3]), (0.0, 0.0, 0.3)
    renderer, data, view, frame = shoot(BALL, wall, eye=eye, target=target)
    pixels, visible = renderer.visibility(data, view)
    assert visible[0] == pytest.approx(0.5, abs=0.06)
    assert visible[1] == 1
    np.testing.assert_array_equal(pixels, [(frame.segments == index).sum() for index in (0, 1)])


def test_visible_fraction_counts_what_the_edge_cuts_off():
    renderer, data, view, _ = shoot(BALL, eye=(0.0, -3.0, 0.3), target=(0.0, 0.0, 0.3))
    assert renderer.visibility(data, view)[1][0] == 1
    aside = cameras.look_at(np.array([0.0, -3.0, 0.3]), np.array([3 / (2 * cameras.FOCAL), 0.0, 0.3]))
    assert renderer.visibility(data, cameras.camera(aside, 112))[1][0] == pytest.approx(0.5, abs=0.06)
    away = cameras.look_at(np.array([0.0, -3.0, 0.3]), np.array([0.0, -9.0, 0.3]))
    assert renderer.visibility(data, cameras.camera(away, 112))[1][0] == 0


def test_visible_box_holds_just_the_pixels():
    segments = np.full((8, 9), FLOOR)
    segments[2:5, 3:7] = 0
    assert visible_box(segments, 0) == (3, 2, 7, 5)
    assert visible_box(segments, 1) is None


def test_colours_are_those_of_the_things():
    _, _, _, frame = shoot(BALL, BOX, CONE)
    for index, channel in ((0, 0), (1, 2), (2, 1)):  # red, blue, green
        mean = frame.colour[frame.segments == index].mean(axis=0)
        assert mean.argmax() == channel
        assert mean[channel] > 2 * np.delete(mean, channel).max()


def test_shadow_falls_away_from_the_light():
    raised = Thing("ball", "ball", "red", "large", (0.3, 0.3, 0.3), (0.0, 0.0, 1.0))
    _, _, view, frame = shoot(raised, eye=(0.0, -0.01, 7.0), target=(0.0, 0.0, 0.0), size=224)
    points = unproject(frame, view)
    floor = frame.segments == FLOOR
    toward = raised.position + (raised.position - LOOK.light) * (1.0 / 5.0)  # where the ray through its centre lands
    shadow = floor & (np.linalg.norm(points - [*toward[:2], 0], axis=2) < 0.15)
    mirror = floor & (np.linalg.norm(points - [*-toward[:2], 0], axis=2) < 0.15)
    assert shadow.sum() > 20 and mirror.sum() > 20
    assert frame.colour[shadow].mean() < 0.75 * frame.colour[mirror].mean()


def test_tiles_equal_the_mean_over_each_pixel():
    """The closed form against brute force: 12×12 rays a pixel."""
    far_ball = Thing("ball", "ball", "red", "small", (0.05,) * 3, (0.0, -30.0, 0.05))
    renderer, _, view, _ = shoot(far_ball, target=(0.0, 1.0, 0.0))
    pose = np.array(view.pose)
    pixels = np.array([(u, v) for u in range(8, 104, 12) for v in range(50, 104, 12)], float)

    def floor_points(at):
        k = np.array(view.intrinsics)
        rays = np.concatenate([(at - k[:2, 2]) / k[0, 0], np.ones((len(at), 1))], axis=1) @ pose[:3, :3].T
        return pose[:3, 3] - rays * (pose[2, 3] / rays[:, 2:])

    closed = renderer._tiles(floor_points(pixels), view)[:, 0]
    offsets = (np.stack(np.meshgrid(np.arange(12), np.arange(12)), -1).reshape(-1, 2) + 0.5) / 12 - 0.5
    samples = floor_points((pixels[:, None] + offsets).reshape(-1, 2))[:, :2]
    parity = np.floor(samples / 0.5).astype(int).sum(axis=1) & 1
    brute = TONES[parity, 0].reshape(len(pixels), -1).mean(axis=1)
    assert np.abs(closed - brute).mean() < 0.02
    assert (
        np.abs(closed - brute).max() < 0.12
    )  # the patch is a slanted rectangle; the closed form takes an upright one


def test_edges_are_nearly_as_smooth_as_with_sixty_four_rays_a_pixel():
    fine = shoot(BALL, BOX, size=448)[3].colour.reshape(56, 8, 56, 8, 3).mean(axis=(1, 3))
    frame = shoot(BALL, BOX, size=56)[3]
    assert np.abs(frame.colour - fine).mean() < 2.0  # of 255
    assert np.percentile(np.abs(frame.colour - fine), 99) < 40
