# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from polyv.processing.posed_views import PosedViews
from tests.processing.conftest import intrinsics_for, look_at, photograph_floor


def views(**changes):
    """Valid arrays of two views, some of them changed."""
    arguments = {
        "images": np.zeros((2, 48, 64, 3), np.uint8),
        "depths": np.full((2, 24, 32), 2.0, np.float32),
        "intrinsics": intrinsics_for(24, 32),
        "poses": np.stack([np.eye(4), np.eye(4)]),
    }
    return PosedViews.from_arrays(**{**arguments, **changes})


def rotation(w, x, y, z) -> np.ndarray:
    w, x, y, z = np.array([w, x, y, z]) / np.linalg.norm([w, x, y, z])
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


@settings(max_examples=50)
@given(
    depth=arrays(np.float32, (9, 13), elements=st.floats(0.125, 20, width=32)),
    focal=st.floats(0.4, 4),
    aspect=st.floats(0.7, 1.4),
    shift=st.tuples(st.floats(-0.14, 0.14), st.floats(-0.14, 0.14)),
    turn=st.tuples(*[st.floats(-1, 1)] * 4).filter(lambda q: np.linalg.norm(q) > 0.1),
    position=st.tuples(*[st.floats(-30, 30)] * 3),
)
def test_unprojected_points_project_back_onto_their_pixels(depth, focal, aspect, shift, turn, position):
    k = np.array([[13 * focal, 0, 6 + 13 * shift[0]], [0, 13 * focal * aspect, 4 + 9 * shift[1]], [0, 0, 1]])
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = rotation(*turn), position
    scene = PosedViews.from_arrays(np.zeros((1, 9, 13, 3), np.uint8), depth[None], k, pose[None])

    world = scene.unproject()
    camera = (world[0] - np.float64(position)) @ pose[:3, :3]  # Rᵀ(X - t), row by row
    pixels = camera @ k.T

    assert world.dtype == np.float32 and world.shape == (1, 9, 13, 3)
    rows, columns = np.mgrid[:9, :13]
    np.testing.assert_allclose(pixels[..., 2], depth, atol=1e-4)
    np.testing.assert_allclose(pixels[..., 0] / pixels[..., 2], columns, atol=0.02)
    np.testing.assert_allclose(pixels[..., 1] / pixels[..., 2], rows, atol=0.02)


def test_axes_are_opencv_and_depth_is_along_z():
    scene = views()
    corner = scene.unproject()[0, 0, 0]
    np.testing.assert_allclose(corner, [-15.5 / 28.8 * 2, -11.5 / 28.8 * 2, 2], rtol=1e-6)  # left, up, ahead


@pytest.mark.parametrize("bad", [0, -1, np.nan, np.inf])
def test_what_was_not_measured_is_nan(bad):
    depths = np.full((2, 24, 32), 2.0)
    depths[0, 3, 4] = bad
    scene = views(depths=depths)
    assert np.isnan(scene.depths[0, 3, 4]) and np.isnan(scene.unproject()[0, 3, 4]).all()
    assert np.isfinite(scene.unproject()).sum() == 3 * (2 * 24 * 32 - 1)


def test_a_plane_has_the_same_world_coordinates_from_three_cameras(floor, tmp_path):
    floor.save(tmp_path / "scene")
    for scene in (floor, PosedViews.load(tmp_path / "scene")):
        tokens, world = scene.token_coordinates(6, 8), scene.unproject()
        assert np.isfinite(tokens).all()
        assert np.abs(tokens[..., 2]).max() < 0.01  # all of them lie on the plane
        compared = 0
        for a in range(3):
            for b in {0, 1, 2} - {a}:
                points = tokens[a].reshape(-1, 3)
                seen = (points - scene.poses[b, :3, 3]) @ scene.poses[b, :3, :3] @ scene.intrinsics[b].T
                column, row = seen[:, 0] / seen[:, 2], seen[:, 1] / seen[:, 2]
                inside = (column > 0) & (column < 78) & (row > 0) & (row < 58)
                found = bilinear(world[b], row[inside], column[inside])
                assert np.linalg.norm(found - points[inside], axis=1).max() < 0.01
                compared += inside.sum()
        assert compared > 100


def bilinear(grid, row, column):
    i, j = np.floor(row).astype(int), np.floor(column).astype(int)
    v, u = (row - i)[:, None], (column - j)[:, None]
    top = grid[i, j] * (1 - u) + grid[i, j + 1] * u
    return top * (1 - v) + (grid[i + 1, j] * (1 - u) + grid[i + 1, j + 1] * u) * v


@settings(max_examples=25)
@given(
    image_size=st.tuples(st.integers(20, 80), st.integers(20, 80)),
    depth_size=st.tuples(st.integers(7, 31), st.integers(7, 31)),
    grid=st.tuples(st.integers(1, 7), st.integers(1, 7)),
    zoom=st.floats(0.8, 1.25),
    seed=st.integers(0, 9),
)
def test_tokens_average_exactly_what_they_cover(image_size, depth_size, grid, zoom, seed):
    """Against the definition: each measured pixel's rectangle, carried into the image, cut with each token's."""
    rng = np.random.default_rng(seed)
    depths = rng.uniform(1, 3, (1, *depth_size)).astype(np.float32)
    depths[rng.random(depths.shape) < 0.6] = 0
    depths[0, 0, 0] = 1
    k_depth, k_image = intrinsics_for(*depth_size), intrinsics_for(*image_size)
    k_image[:2, :2] *= zoom
    scene = PosedViews.from_arrays(
        np.zeros((1, *image_size, 3), np.uint8), depths, k_depth, look_at((1, 1, 1))[None], k_image
    )
    got, world = scene.token_coordinates(*grid)[0], scene.unproject()[0].astype(np.float64)

    def carry(u, v):
        x, y, _ = k_image @ np.linalg.inv(k_depth) @ [u, v, 1]
        return (x + 0.5) / image_size[1] * grid[1], (y + 0.5) / image_size[0] * grid[0]

    area, total = np.zeros(grid), np.zeros((*grid, 3))
    for i, j in zip(*np.nonzero(depths[0]), strict=True):
        (left, top), (right, bottom) = carry(j - 0.5, i - 0.5), carry(j + 0.5, i + 0.5)
        for row in range(max(int(top), 0), min(int(bottom) + 1, grid[0])):
            for column in range(max(int(left), 0), min(int(right) + 1, grid[1])):
                width = max(min(right, column + 1) - max(left, column), 0)
                share = width * max(min(bottom, row + 1) - max(top, row), 0) / (right - left) / (bottom - top)
                area[row, column] += share
                total[row, column] += share * world[i, j]
    clear = area > 1e-5
    np.testing.assert_allclose(got[clear], total[clear] / area[clear][:, None], atol=1e-4)
    assert np.isnan(got[area < 1e-7]).all()


def test_a_token_without_depth_has_no_coordinate_and_invalid_pixels_do_not_pull():
    depths = np.full((1, 8, 8), 2.0, np.float32)
    depths[0, :4, :4] = 0
    depths[0, 4, 4] = np.nan
    k = intrinsics_for(8, 8)
    got = PosedViews.from_arrays(np.zeros((1, 64, 64, 3), np.uint8), depths, k, np.eye(4)[None]).token_coordinates(
        2, 2
    )
    assert np.isnan(got[0, 0, 0]).all() and np.isfinite(got[0, 1]).all()
    assert got[0, 1, 1, 2] == pytest.approx(2)


def test_token_coordinates_follow_the_colour_camera_where_it_differs():
    """A colour camera that sees only the middle half of the depth map: its tokens average only that half."""
    depths = np.ones((1, 40, 40), np.float32)
    k_depth, k_image = intrinsics_for(40, 40), intrinsics_for(40, 40)
    k_image[:2, :2] *= 2
    scene = PosedViews.from_arrays(np.zeros((1, 40, 40, 3), np.uint8), depths, k_depth, np.eye(4)[None], k_image)
    x = scene.token_coordinates(4, 4)[0, 0, :, 0]
    half = 20 / k_depth[0, 0] / 2
    np.testing.assert_allclose(x, half * np.array([-0.75, -0.25, 0.25, 0.75]), atol=1e-5)


def test_its_pixels_are_not_printed(floor):
    assert repr(floor) == f"PosedViews(images={floor.images.shape}, depths={floor.depths.shape})"


def test_saved_and_loaded_it_is_the_same(floor, tmp_path):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, floor.images.shape, dtype=np.uint8)
    depths = floor.depths.copy()
    depths[0, 5, 6], depths[1, 7, 8] = np.nan, 70.0
    scene = PosedViews.from_arrays(images, depths, floor.intrinsics, floor.poses, floor.image_intrinsics)
    scene.save(tmp_path / "scene")

    again = PosedViews.load(tmp_path / "scene")
    np.testing.assert_array_equal(again.images, images)
    np.testing.assert_allclose(again.poses, scene.poses, atol=1e-8)
    np.testing.assert_allclose(again.intrinsics, scene.intrinsics, rtol=1e-8)
    np.testing.assert_allclose(again.image_intrinsics, scene.image_intrinsics, rtol=1e-8)
    depths[1, 7, 8] = np.nan  # beyond 65.535 m nothing can be stored
    np.testing.assert_allclose(again.depths, depths, atol=0.00051)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["scene"]  # no temporary folder left


def test_save_leaves_nothing_behind_when_it_fails(floor, tmp_path, monkeypatch):
    monkeypatch.setattr("polyv.processing.posed_views.write_matrix", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        floor.save(tmp_path / "scene")
    assert list(tmp_path.iterdir()) == []


def test_save_refuses_what_it_cannot_keep(floor, tmp_path):
    (tmp_path / "there").mkdir()
    with pytest.raises(FileExistsError, match="exists already"):
        floor.save(tmp_path / "there")
    cameras = floor.intrinsics * np.array([1, 1.05, 1])[:, None, None] ** [[1, 0, 0], [0, 1, 0], [0, 0, 0]]
    zoomed = PosedViews.from_arrays(floor.images, floor.depths, cameras, floor.poses)
    with pytest.raises(ValueError, match="intrinsics: views differ, but ScanNet's layout holds one camera"):
        zoomed.save(tmp_path / "zoomed")


@pytest.mark.parametrize("num_views, expected", [(None, 7), (9, 7), (7, 7), (3, 3), (1, 1)])
def test_views_are_chosen_over_the_whole_trajectory(num_views, expected):
    scene = photograph_floor([look_at((2, 0.1 * index, 2)) for index in range(7)])
    chosen = scene.select(num_views)
    assert len(chosen) == expected
    if expected > 1:
        np.testing.assert_array_equal(chosen.poses[[0, -1]], scene.poses[[0, -1]])


POSE = np.stack([np.eye(4), np.eye(4)])


@pytest.mark.parametrize(
    "changes, error, message",
    [
        ({"depths": np.zeros((2, 24, 32))}, ValueError, r"depths: none of the 1536 values of 2 views is valid"),
        ({"depths": np.full((2, 24, 32), np.nan)}, ValueError, r"depths: none of the 1536 values"),
        ({"depths": np.full((2, 24, 32), 2000, np.uint16)}, TypeError, r"depths: got uint16, expected metres"),
        ({"images": np.zeros((2, 48, 64, 3))}, TypeError, r"images: got float64, expected uint8"),
        (
            {"images": np.zeros((2, 48, 64), np.uint8)},
            ValueError,
            r"images: got shape \[2, 48, 64\], expected \[K, H, W, 3\]",
        ),
        ({"poses": POSE[:1]}, ValueError, r"poses: got 1 views, but there are 2 images"),
        ({"depths": np.ones((3, 24, 32))}, ValueError, r"depths: got 3 views, but there are 2 images"),
        ({"poses": POSE * 2}, ValueError, r"poses\[0\]: its last row is"),
        ({"poses": POSE * np.array([2, 2, 2, 1])[:, None]}, ValueError, r"poses\[0\]: not a rigid motion"),
        ({"poses": POSE * np.array([-1, 1, 1, 1])}, ValueError, r"poses\[0\]: not a rigid motion.*det R = -1"),
        ({"poses": np.stack([np.eye(4), np.full((4, 4), -np.inf)])}, ValueError, r"poses\[1\]: holds NaN or infinity"),
        (
            {"intrinsics": intrinsics_for(48, 64)},
            ValueError,
            r"intrinsics\[0\] \(of the depth map\).*another resolution",
        ),
        (
            {"image_intrinsics": intrinsics_for(24, 32)},
            ValueError,
            r"image_intrinsics\[0\] \(of the colour.*another res",
        ),
        ({"intrinsics": -intrinsics_for(24, 32)}, ValueError, r"intrinsics\[0\].*expected \[\[fx, 0, cx\]"),
        (
            {"intrinsics": np.add(intrinsics_for(24, 32), [[0, 5, 0], [0, 0, 0], [0, 0, 0]])},
            ValueError,
            r"skew 5.0 is not",
        ),
        (
            {"images": [np.zeros((48, 64, 3), np.uint8), np.zeros((40, 64, 3), np.uint8)]},
            ValueError,
            r"images\[1\]: got",
        ),
        ({"depths": [np.ones((24, 32)), np.ones((24, 30))]}, ValueError, r"depths\[1\]: got shape \[24, 30\], but"),
        ({"images": np.zeros((2, 48, 64, 4), np.uint8)}, ValueError, r"images: got shape \[2, 48, 64, 4\], expected"),
        ({"intrinsics": np.eye(4)}, ValueError, r"intrinsics: got shape \[4, 4\].*pass the upper left 3x3"),
        ({"intrinsics": np.stack([np.eye(4)] * 2)}, ValueError, r"intrinsics: got shape \[2, 4, 4\]"),
        ({"intrinsics": np.ones(4)}, ValueError, r"intrinsics: got shape \[4\], expected \[K, 3, 3\]"),
        ({"image_intrinsics": np.eye(4)}, ValueError, r"image_intrinsics: got shape \[4, 4\]"),
        ({"depths": np.ones((2, 24, 32, 1))}, ValueError, r"depths: got shape \[2, 24, 32, 1\], expected \[K, h, w\]"),
        ({"depths": np.full((2, 24, 32), 900.0)}, ValueError, r"depths: half of the values lie beyond 900 m.*by 1000"),
        ({"images": [], "depths": [], "poses": np.empty((0, 4, 4))}, ValueError, r"is empty; at least one view"),
    ],
)
def test_bad_arrays_are_refused_by_name(changes, error, message):
    with pytest.raises(error, match=message):
        views(**changes)


@pytest.mark.parametrize("factor", [1 / 3, 0.5, 2 / 3, 1.34, 1.5, 2, 2.025, 7.5])
def test_intrinsics_of_common_other_resolutions_are_told(factor):
    k = intrinsics_for(480, 640)
    k[:2] *= factor
    with pytest.raises(ValueError, match="another resolution"):
        PosedViews.from_arrays(
            np.zeros((1, 8, 8, 3), np.uint8),
            np.ones((1, 480, 640), np.float32),
            k,
            np.eye(4)[None],
            intrinsics_for(8, 8),
        )


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "I;16"])
def test_pictures_of_any_mode_may_be_views(mode):
    picture = Image.fromarray(np.zeros((48, 64), np.uint16)) if mode == "I;16" else Image.new(mode, (64, 48))
    assert views(images=[picture, picture]).images.shape == (2, 48, 64, 3)


def test_the_class_itself_refuses_depth_that_from_arrays_would_mend():
    scene = views()
    for depth, message in ((0.0, "none of the 1536 values"), (np.inf, "none of the 1536 values")):
        with pytest.raises(ValueError, match=message):
            replace(scene, depths=np.full((2, 24, 32), depth, np.float32))
    for bad in (0, -1, np.inf):
        depths = scene.depths.copy()
        depths[1, 2, 3] = bad
        with pytest.raises(ValueError, match="holds zero, negative or infinite values, but here NaN"):
            replace(scene, depths=depths)


def test_a_view_from_high_above_is_no_view_in_millimetres():
    depths = np.full((2, 24, 32), 120.0)
    depths[0, 0] = 60_000  # what lies far behind does not matter
    assert len(views(depths=depths)) == 2


def test_depth_further_than_any_place_is_refused():
    """A few such values pass for metres by their median, and their sums would overflow."""
    depths = np.full((1, 24, 32), 2.0)
    depths[0, 0, :2] = 3e38
    k = np.array([[30.0, 0, 15.5], [0, 30, 11.5], [0, 0, 1]])
    with pytest.raises(ValueError, match=r"depths: holds 3e\+38 m\. Expected metres, at most 1e\+08"):
        PosedViews.from_arrays(np.zeros((1, 24, 32, 3), np.uint8), depths, k, np.eye(4)[None])
