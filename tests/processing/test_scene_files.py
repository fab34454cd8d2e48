# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""Scenes as files: ScanNet's layout as published, nerfstudio's transforms.json, and everything wrong with them."""

import json
import re

import numpy as np
import pytest
from PIL import Image

from polyv.processing.posed_views import PosedViews
from tests.processing.conftest import intrinsics_for, look_at, photograph_floor


@pytest.fixture
def folder(floor, tmp_path):
    floor.save(tmp_path / "scene")
    return tmp_path / "scene"


@pytest.fixture
def transforms(floor, tmp_path):
    """The floor as nerfstudio would store it: OpenGL axes, pixel centres at a half, depth in millimetres."""
    root, frames = tmp_path / "nerf", []
    for name in ("images", "depth"):
        (root / name).mkdir(parents=True)
    for view in range(len(floor)):
        Image.fromarray(floor.images[view]).save(root / f"images/{view}.jpg")
        Image.fromarray((floor.depths[view] * 1000).round().astype(np.uint16)).save(root / f"depth/{view}.png")
        frames.append(
            {
                "file_path": f"./images/{view}.jpg",
                "depth_file_path": f"depth/{view}.png",
                "transform_matrix": (floor.poses[view] * [1, -1, -1, 1]).tolist(),
            }
        )
    (fx, _, cx), (_, fy, cy), _ = floor.image_intrinsics[0].tolist()
    content = {"fl_x": fx, "fl_y": fy, "cx": cx + 0.5, "cy": cy + 0.5, "w": 120, "h": 90, "k1": 0.0, "frames": frames}
    path = root / "transforms.json"
    path.write_text(json.dumps(content))
    return path


def edit(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_scannet_as_published(tmp_path):
    """JPEG colour at 1296x968, depth at 640x480, 4x4 intrinsics, frames named 0, 20, … 100: order by number."""
    names = [0, 20, 100]
    poses = [look_at((2 + 0.1 * index, 0, 2)) for index in range(3)]
    depth_camera = np.array([[577.870605, 0, 319.5], [0, 577.870605, 239.5], [0, 0, 1]])
    colour_camera = np.array([[1169.621094, 0, 646.295044], [0, 1167.105103, 489.927032], [0, 0, 1]])
    for name in ("color", "depth", "pose", "intrinsic"):
        (tmp_path / name).mkdir()
    for name, pose in zip(names, poses, strict=True):
        Image.new("RGB", (1296, 968), (name, 0, 0)).save(tmp_path / f"color/{name}.jpg")
        Image.fromarray(np.full((480, 640), 1500, np.uint16)).save(tmp_path / f"depth/{name}.png")
        np.savetxt(tmp_path / f"pose/{name}.txt", pose, fmt="%.6f")
    for file, camera in (("intrinsic_depth", depth_camera), ("intrinsic_color", colour_camera)):
        matrix = np.eye(4)
        matrix[:3, :3] = camera
        np.savetxt(tmp_path / f"intrinsic/{file}.txt", matrix, fmt="%.6f")

    scene = PosedViews.load(tmp_path)
    assert scene.images.shape == (3, 968, 1296, 3) and scene.depths.shape == (3, 480, 640)
    assert np.all(scene.depths == np.float32(1.5))
    np.testing.assert_allclose(scene.poses, poses, atol=1e-6)
    np.testing.assert_allclose(scene.intrinsics[0], depth_camera)
    np.testing.assert_allclose(scene.image_intrinsics[0], colour_camera)
    assert np.isfinite(scene.token_coordinates(34, 46)).all(axis=-1).mean() > 0.95


def test_views_that_scannet_lost_are_skipped_with_a_warning(folder):
    lost = folder / "pose/1.txt"
    lost.write_text("-inf -inf -inf -inf\n" * 4)
    with pytest.warns(UserWarning, match=r"1 of 3 views have no pose \(lost by the tracker\); they are skipped"):
        scene = PosedViews.load(folder)
    assert len(scene) == 2
    for pose in (folder / "pose").iterdir():
        pose.write_text(lost.read_text())
    with pytest.raises(ValueError, match=r"3 of 3 views have no pose .*; no view is left"):
        PosedViews.load(folder)


def test_only_the_chosen_views_are_decoded(folder):
    (folder / "color/1.png").write_bytes(b"broken, and never read")
    assert len(PosedViews.load(folder, num_views=2)) == 2


def test_transforms_give_the_same_scene_as_the_folder(folder, transforms):
    ours, theirs = PosedViews.load(folder), PosedViews.load(transforms)
    for name in ("depths", "intrinsics", "image_intrinsics", "poses"):
        np.testing.assert_allclose(getattr(theirs, name), getattr(ours, name), atol=1e-6, err_msg=name)
    assert len(PosedViews.load(transforms.parent, num_views=2)) == 2  # the folder will do, too


def test_transforms_with_a_camera_a_frame_and_depth_arrays(transforms, floor):
    def change(content):
        content["depth_unit_scale_factor"] = 1.0
        for view, frame in enumerate(content["frames"]):
            frame.update({key: content[key] for key in ("fl_x", "fl_y", "cx", "cy")}, depth_file_path=f"{view}.npy")
            np.save(transforms.parent / f"{view}.npy", floor.depths[view])
        for key in ("fl_x", "fl_y", "cx", "cy"):
            del content[key]

    edit(transforms, change)
    scene = PosedViews.load(transforms)
    np.testing.assert_array_equal(scene.depths, floor.depths)
    np.testing.assert_allclose(scene.unproject()[..., 2], 0, atol=1e-5)


def test_pictures_of_a_scene_are_not_turned_by_exif(folder, floor):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(floor.images[0]).save(folder / "color/0.png", exif=exif)
    assert PosedViews.load(folder).images.shape == floor.images.shape


@pytest.fixture
def sequence(floor, tmp_path):
    """The floor as 3RScan's sequence.zip has it: PGM of 16 bits, cameras in _info.txt."""
    folder = tmp_path / "sequence"
    folder.mkdir()
    height, width = floor.images.shape[1:3]
    lines = [f"m_colorWidth = {width}", f"m_colorHeight = {height}", "m_depthShift = 1000"]
    for name, matrix in (("Color", floor.image_intrinsics[0]), ("Depth", floor.intrinsics[0])):
        padded = np.eye(4)
        padded[:3, :3] = matrix
        lines.append(f"m_calibration{name}Intrinsic = {' '.join(map(str, padded.ravel()))}")
    (folder / "_info.txt").write_text("\n".join(lines))
    for view, depth in enumerate(floor.depths_in_millimetres()):
        Image.fromarray(floor.images[view]).save(folder / f"frame-{view:06d}.color.jpg", quality=100, subsampling=0)
        Image.fromarray(depth.astype(np.int32)).save(folder / f"frame-{view:06d}.depth.pgm")
        np.savetxt(folder / f"frame-{view:06d}.pose.txt", floor.poses[view])
    return folder


def test_3rscan_is_read_as_published_and_turned_upright(sequence, floor):
    """Its pictures are stored lying: turned clockwise, every pixel still shows the same place in the world."""
    views = PosedViews.load(sequence)
    assert np.abs(views.images.astype(int) - np.rot90(floor.images, -1, (1, 2))).mean() < 2
    np.testing.assert_allclose(views.unproject(), np.rot90(floor.unproject(), -1, (1, 2)), atol=3e-3)
    grid = np.rot90(floor.token_coordinates(3, 4), -1, (1, 2))
    np.testing.assert_allclose(views.token_coordinates(4, 3), grid, atol=3e-3)
    assert len(PosedViews.load(sequence, 2)) == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda text: text.replace("m_calibrationDepthIntrinsic = ", "m_calibrationDepthIntrinsic = x "),
            "expected 16",
        ),
        (lambda text: text.replace("m_calibrationColorIntrinsic", "m_other"), "m_calibrationColorIntrinsic is None"),
        (lambda text: text.replace("m_colorWidth", "m_width"), "m_colorWidth and m_colorHeight are"),
        (lambda text: text.replace("m_colorWidth = 1", "m_colorWidth = 2"), "intrinsics are for 2"),
    ],
)
def test_a_bad_info_of_3rscan_is_named(sequence, change, message):
    info = sequence / "_info.txt"
    info.write_text(change(info.read_text()))
    with pytest.raises(ValueError, match=message):
        PosedViews.load(sequence)


def test_a_view_of_3rscan_without_all_three_files_is_refused(sequence):
    (sequence / "frame-000001.depth.pgm").unlink()
    with pytest.raises(FileNotFoundError, match=r"frame-\*\.depth\.pgm: no file for view 'frame-000001'"):
        PosedViews.load(sequence)


@pytest.mark.parametrize("missing, said", [("pose/1.txt", "pose"), ("depth/1.png", "depth"), ("color/1.png", "color")])
def test_a_view_without_all_three_files_is_refused(folder, missing, said):
    (folder / missing).unlink()
    with pytest.raises(
        FileNotFoundError, match=rf"{said}: no file for view '1' \(\d color, \d depth, \d pose files\)"
    ):
        PosedViews.load(folder)


@pytest.mark.parametrize(
    "file, content, error, message",
    [
        ("color/1.png", b"hello", ValueError, r"1\.png: not a picture that PIL can read, whatever its name says"),
        ("depth/1.png", b"hello", ValueError, r"1\.png: not a picture that PIL can read, whatever its name says"),
        ("pose/1.txt", b"one two", ValueError, r"1\.txt: not a matrix of numbers"),
        ("pose/1.txt", b"\xff\xfe\x00", ValueError, r"1\.txt: not a matrix of numbers"),
        ("pose/1.txt", b"1 2 3", ValueError, r"1\.txt: got shape \[1, 3\], expected \[4, 4\]"),
        ("intrinsic/intrinsic_depth.txt", b"1 2 3", ValueError, r"got shape \[1, 3\], expected \[3, 3\]"),
        ("intrinsic/intrinsic_depth.txt", None, FileNotFoundError, r"intrinsic_depth\.txt: no such file"),
    ],
)
def test_bad_files_of_a_folder_are_named(folder, file, content, error, message):
    (folder / file).unlink() if content is None else (folder / file).write_bytes(content)
    with pytest.raises(error, match=message):
        PosedViews.load(folder)


def test_depth_that_is_a_colour_picture_is_refused(folder, floor):
    Image.fromarray(floor.images[1]).save(folder / "depth/1.png")
    with pytest.raises(ValueError, match=r"1\.png: a picture of mode 'RGB', expected depth as one channel of 16 bits"):
        PosedViews.load(folder)


def test_views_of_different_sizes_and_too_large_ones_are_refused(folder):
    with pytest.raises(ValueError, match="120x90 pixels are more than max_image_pixels=1000"):
        PosedViews.load(folder, max_image_pixels=1000)
    Image.new("RGB", (30, 30)).save(folder / "color/1.png")
    with pytest.raises(ValueError, match="30x30 pixels, but the first view has 120x90"):
        PosedViews.load(folder)


def test_swapped_intrinsics_are_told(tmp_path):
    photograph_floor([look_at((2, 0, 2))], image_size=(120, 160)).save(tmp_path / "scene")
    files = [tmp_path / f"scene/intrinsic/intrinsic_{name}.txt" for name in ("depth", "color")]
    first, second = files[0].read_text(), files[1].read_text()
    files[0].write_text(second), files[1].write_text(first)
    with pytest.raises(ValueError, match=r"scene/intrinsic/intrinsic_color\.txt: .* of another resolution"):
        PosedViews.load(tmp_path / "scene")


@pytest.mark.parametrize(
    "file, matrix, message",
    [
        ("pose/2.txt", np.diag([2.0, 1, 1, 1]), "not a rigid motion"),
        ("pose/2.txt", np.full((4, 4), np.nan), "holds NaN or infinity"),
        ("intrinsic/intrinsic_depth.txt", -np.eye(3), r"got .*, expected \[\[fx, 0, cx\]"),
        ("intrinsic/intrinsic_depth.txt", intrinsics_for(600, 800), "the principal point .* of another resolution"),
        ("intrinsic/intrinsic_color.txt", -np.eye(3), r"got .*, expected \[\[fx, 0, cx\]"),
    ],
)
def test_what_is_wrong_with_one_view_of_a_folder_names_its_file(folder, file, matrix, message):
    np.savetxt(folder / file, matrix)
    with pytest.raises(ValueError, match=rf"^{re.escape(str(folder / file))}: {message}"):
        PosedViews.load(folder, num_views=2)  # the first and the last: 2.txt is the second of them


@pytest.mark.parametrize(
    "change, message",
    [
        ({"transform_matrix": np.diag([2.0, 1, 1, 1]).tolist()}, "transform_matrix: not a rigid motion"),
        ({"transform_matrix": [[1, 2], [3, 4]]}, r"transform_matrix: got shape \[2, 2\]"),
        ({"cx": 500}, "the principal point .* of another resolution"),
        ({"fl_x": -1}, r"got .*, expected \[\[fx, 0, cx\]"),
        ({"fl_x": "wide"}, "fl_x, fl_y, cx, cy, w and h must be numbers"),
    ],
)
def test_what_is_wrong_with_one_frame_of_transforms_names_it(transforms, change, message):
    edit(transforms, lambda content: content["frames"][2].update(change))
    with pytest.raises(ValueError, match=rf"^{re.escape(str(transforms))}: \./images/2\.jpg: {message}"):
        PosedViews.load(transforms, num_views=2)


@pytest.mark.parametrize("layout", ["folder", "transforms"])
def test_depth_that_is_none_names_its_files(folder, transforms, layout):
    scene = folder if layout == "folder" else transforms.parent
    for view in range(3):
        Image.fromarray(np.zeros((60, 80), np.uint16)).save(scene / f"depth/{view}.png")
    first = rf"^{re.escape(str(scene))}/depth/0\.png"
    with pytest.raises(ValueError, match=rf"{first} and 2 more: depths: none of the 14400 values of 3 views"):
        PosedViews.load(scene)
    with pytest.raises(ValueError, match=rf"{first}: depths: none of the 4800 values of 1 views"):
        PosedViews.load(scene, num_views=1)


def test_depth_without_pixels_is_refused(transforms):
    np.save(transforms.parent / "empty.npy", np.zeros((0, 80)))
    edit(transforms, lambda content: content["frames"][0].update(depth_file_path="empty.npy"))
    with pytest.raises(ValueError, match=r"empty\.npy: got shape \[0, 80\], expected \[h, w\]"):
        PosedViews.load(transforms)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda c: c["frames"][1].pop("depth_file_path"), r"frames\[1\] has no 'depth_file_path'"),
        (lambda c: c["frames"][2].pop("transform_matrix"), r"frames\[2\] has no 'transform_matrix'"),
        (lambda c: c["frames"][0].update(transform_matrix=[[1, 2], [3, 4]]), r"got shape \[2, 2\], expected \[4, 4\]"),
        (lambda c: c["frames"][0].update(transform_matrix="north"), "not a matrix of numbers"),
        (lambda c: c["frames"][0].update(file_path="../../secret.png"), r"'../../secret.png' leads out of the folder"),
        (lambda c: c["frames"][0].update(depth_file_path="/etc/passwd"), r"'/etc/passwd' leads out of the folder"),
        (lambda c: c["frames"][0].update(file_path="C:\\x.png"), r"leads out of the folder"),
        (lambda c: c["frames"][0].update(file_path="..\\x.png"), r"leads out of the folder"),
        (
            lambda c: c.update(w=240, h=180),
            r"120x90 pixels, but its intrinsics are for 240x180: intrinsics of another res",
        ),
        (lambda c: c.update(k1=0.1), r"lens distortion \(k1\) is not supported"),
        (lambda c: c.update(camera_model="OPENCV_FISHEYE"), r"camera_model 'OPENCV_FISHEYE' is not supported"),
        (lambda c: c.pop("fl_x"), r"no fl_x\. Expected fl_x, fl_y, cx and cy"),
        (lambda c: c.update(frames=[]), "it has no list of 'frames'"),
    ],
)
def test_bad_transforms_are_refused(transforms, change, message):
    edit(transforms, change)
    with pytest.raises(ValueError, match=message):
        PosedViews.load(transforms)


def test_what_is_no_scene_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file or folder"):
        PosedViews.load(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"expected ScanNet's layout .* or a transforms.json"):
        PosedViews.load(tmp_path)
    (tmp_path / "scene.json").write_text("this is not JSON")
    with pytest.raises(ValueError, match=r"scene\.json: not a nerfstudio transforms\.json"):
        PosedViews.load(tmp_path / "scene.json")
    (tmp_path / "color").mkdir()
    with pytest.raises(FileNotFoundError, match="depth: no such folder"):
        PosedViews.load(tmp_path)
    for name in ("depth", "pose", "intrinsic"):
        (tmp_path / name).mkdir()
    for name in ("depth", "color"):
        np.savetxt(tmp_path / f"intrinsic/intrinsic_{name}.txt", intrinsics_for(8, 8))
    with pytest.raises(ValueError, match="it holds no view at all"):
        PosedViews.load(tmp_path)
