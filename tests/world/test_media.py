# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""Media: the files are ordinary ones, and the record says exactly what they show."""

from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from polyv.processing.posed_views import PosedViews
from polyv.world.cameras import camera
from polyv.world.media import scene_name, write_scene, write_video
from polyv.world.records import WorldRecord
from polyv.world.rendering import Renderer
from polyv.world.scenes import Scene, build


SIZE = 64
LAYOUT_INDEX = {"static": 7, "ramp": 1, "edge": 0, "collision": 4, "rolling": 9}  # of seed 0, train


@pytest.fixture(scope="module", params=LAYOUT_INDEX)
def written(request, tmp_path_factory) -> tuple[Scene, WorldRecord, Path]:
    folder = tmp_path_factory.mktemp(request.param)
    scene = build("train", 0, LAYOUT_INDEX[request.param])
    assert scene.layout == request.param
    return scene, write_scene(scene, folder, SIZE), folder


def decode(path: Path) -> tuple[np.ndarray, float]:
    with av.open(str(path)) as container:
        frames = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
        return frames, float(container.streams.video[0].average_rate)


def project(view, point) -> tuple[np.ndarray, float]:
    """Pixel and depth of a world point."""
    pose = np.array(view.pose)
    local = (np.array(point) - pose[:3, 3]) @ pose[:3, :3]
    return (np.array(view.intrinsics) @ local / local[2])[:2], local[2]


def test_files_are_what_their_names_say(written):
    _, record, folder = written
    for name in ("image.png", "moved.png"):
        with Image.open(folder / name) as picture:
            assert (picture.size, picture.mode) == ((SIZE, SIZE), "RGB")
    frames, rate = decode(folder / "video.mp4")
    assert frames.shape == (16, SIZE, SIZE, 3)
    assert rate == record.fps == 8
    assert WorldRecord.model_validate_json((folder / "record.json").read_text()) == record
    assert sorted(path.name for path in folder.iterdir()) == [
        "image.png",
        "moved.png",
        "record.json",
        "scene",
        "video.mp4",
    ]


def test_posed_views_read_back_as_recorded(written):
    scene, record, folder = written
    views = PosedViews.load(folder / "scene")
    assert len(views) == len(record.view_cameras) == 6
    renderer = Renderer(scene.model, scene.things, scene.look)
    data = renderer.pose_things(scene.motion.states[0])
    for number, view in enumerate(record.view_cameras):
        np.testing.assert_allclose(views.poses[number], view.pose, atol=1e-6)
        np.testing.assert_allclose(views.intrinsics[number], view.intrinsics, atol=1e-6)
        frame = renderer.render(data, view)
        np.testing.assert_array_equal(views.images[number], frame.colour)
        depth = np.where(frame.depth > 0, frame.depth, np.nan)
        np.testing.assert_allclose(views.depths[number], depth, atol=6e-4)  # whole millimetres


def test_video_shows_the_frames(written):
    scene, record, folder = written
    frames, _ = decode(folder / "video.mp4")
    renderer = Renderer(scene.model, scene.things, scene.look)
    for number in (0, 5, 15):
        view = record.video_cameras[number]
        drawn = renderer.render(renderer.pose_things(scene.motion.states[number]), view).colour
        assert np.abs(frames[number].astype(int) - drawn).mean() < 6  # H.264 with halved chroma
    image = np.asarray(Image.open(folder / "image.png")).astype(int)
    assert (np.abs(frames[0] - image).mean() < 6) == (record.layout != "static")


def test_tracks_begin_at_the_positions(written):
    scene, record, _ = written
    for number, thing in enumerate(record.objects):
        assert thing.track[0] == thing.position
        assert len(thing.track) == len(thing.in_video) == len(record.video_cameras) == 16
        np.testing.assert_allclose(thing.track, scene.motion.frame_tracks[:, number], atol=1e-4)
        np.testing.assert_allclose(thing.position, scene.things[number].position, atol=1e-3)


def test_boxes_hold_the_centres_of_what_is_seen_whole(written):
    _, record, _ = written
    checked = 0
    for thing in record.objects:
        if thing.category in ("table", "ramp"):
            continue  # one may look through beneath a table
        looks = [(thing.in_image, record.image_camera, 0), (thing.in_moved, record.moved_camera, 0)]
        looks += [(look, view, 0) for look, view in zip(thing.in_views, record.view_cameras, strict=True)]
        looks += [(look, record.video_cameras[k], k) for k, look in enumerate(thing.in_video)]
        for look, view, frame in looks:
            assert (look.box is None) == (look.visible == 0)
            if look.visible > 0.99:
                (u, v), depth = project(view, thing.track[frame])
                x0, y0, x1, y1 = look.box
                assert depth > 0
                assert x0 <= u + 0.5 <= x1 and y0 <= v + 0.5 <= y1
                # As large as its extent makes it appear, up to perspective and the grid of pixels.
                size = max(thing.extent) * view.intrinsics[0][0] / depth
                assert 0.5 * size - 2 < max(x1 - x0, y1 - y0) < 1.8 * size + 2
                checked += 1
    assert checked > 20


def test_relations_name_objects_and_times_of_the_clip(written):
    _, record, _ = written
    names = {thing.id for thing in record.objects}
    for relation in record.relations:
        assert relation.subject in names
        assert (relation.object is None) == (relation.predicate == "moves")
        assert relation.object is None or relation.object in names
        if relation.predicate == "on":
            assert relation.start is relation.end is None
        else:
            assert 0 <= relation.start <= relation.end <= 15 / 8


def test_on_is_on_and_fallen_is_down(written):
    _, record, _ = written
    things = {thing.id: thing for thing in record.objects}
    for relation in record.relations:
        subject, other = things[relation.subject], things.get(relation.object or "")
        if relation.predicate == "on" and other.category != "ramp":
            gap = (subject.position[2] - subject.extent[2] / 2) - (other.position[2] + other.extent[2] / 2)
            assert abs(gap) < 0.005
        if relation.predicate == "falls_from":
            assert subject.track[-1][2] < other.position[2] + other.extent[2] / 2


def test_same_scene_same_bytes(written, tmp_path):
    scene, record, folder = written
    assert write_scene(build("train", 0, scene.index), tmp_path, SIZE) == record
    for path in folder.rglob("*"):
        if path.is_file():
            assert path.read_bytes() == (tmp_path / path.relative_to(folder)).read_bytes(), path.name


def test_video_encoder_repeats_itself(tmp_path):
    """x264's processor-specific arithmetic does not: it made two different files of this very clip, at random."""
    scene = build("train", 0, LAYOUT_INDEX["static"])
    renderer = Renderer(scene.model, scene.things, scene.look)
    data = renderer.pose_things(scene.motion.states[0])
    clip = np.stack([renderer.render(data, camera(pose, 112)).colour for pose in scene.video_poses])
    rng = np.random.default_rng(0)
    written = set()
    for _ in range(14):
        clutter = [rng.random(rng.integers(1000, 60000)) for _ in range(rng.integers(3, 30))]  # stirs the memory
        del clutter
        write_video(tmp_path / "clip.mp4", clip, 8.0)
        written.add((tmp_path / "clip.mp4").read_bytes())
    assert len(written) == 1


def test_paths_of_a_record_lead_to_its_folder(written):
    scene, record, _ = written
    assert record.scene_id == scene_name(scene.index)
    assert record.media.image == f"scenes/{record.scene_id}/image.png"
    assert record.media.scene == f"scenes/{record.scene_id}/scene"
