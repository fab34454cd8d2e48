# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
import re

import numpy as np
import pytest

from polyv.world.captions import GRID, captions, describe, place, place_words
from polyv.world.records import Appearance
from tests.world.factory import SIZE, Thing, camera, project, random_record, record


BANNED = [
    "near",
    "nearer",
    "nearest",
    "close",
    "closer",
    "closest",
    "far",
    "farther",
    "front",
    "behind",
    "beside",
    "between",
    "next",
    "distance",
    "depth",
    "deep",
    "metres",
    "ahead",
    "above",
    "below",
    "under",
    "on",
    "moves",
    "moving",
    "move",
    "rolls",
    "roll",
    "falls",
    "fall",
    "hits",
    "hit",
    "towards",
    "away",
    "still",
    "before",
    "after",
    "then",
]
VIEW = camera((0.0, -4.0, 2.0))


def written(index: int, seed: int = 0) -> list[tuple[tuple[str, str], str, str]]:
    return captions(random_record(index), np.random.default_rng(seed))


def test_captions_say_nothing_of_depth_distance_or_motion():
    for index in range(80):
        for _, request, caption in written(index):
            assert not set(re.findall("[a-z]+", f"{request} {caption}".lower())) & set(BANNED), caption


def test_each_medium_is_described_in_both_styles():
    rows, media = written(3), random_record(3).media
    whole = [("image", media.image), ("video", media.video), ("scene", media.scene)]
    assert [medium for medium, _, _ in rows[:6]] == [medium for medium in whole for _ in range(2)]
    for (kind, _), request, caption in rows:
        assert {"image": "picture", "video": "first frame", "scene": "first view"}[kind] in request
        assert caption.endswith(".") and request[-1] in ".?"


def test_each_view_and_the_moved_image_are_pictures_of_their_own():
    for index in range(20):
        scene = random_record(index)
        for (kind, path), _request, caption in written(index)[6:]:
            if path == scene.media.moved:
                camera_of = scene.moved_camera
            else:
                view = re.fullmatch(rf"{scene.media.scene}/color/(\d)\.png", path)
                camera_of = scene.view_cameras[int(view[1])]
            assert kind == "image"
            for thing in scene.objects:
                cell = re.search(rf"{thing.name} ([a-h])(\d)", caption)
                x, y, _ = project(thing.position, camera_of)
                if cell and 10 < x < SIZE - 10 and 10 < y < SIZE - 10:
                    assert cell[1] + cell[2] == f"{'abcdefgh'[int(GRID * x / SIZE)]}{int(GRID * y / SIZE) + 1}"


def test_grid_cells_are_where_the_objects_project():
    for index in range(40):
        scene = random_record(index)
        cells = next(text for (kind, _), request, text in written(index) if kind == "image" and "square" in request)
        for thing in scene.objects:
            match = re.search(rf"{thing.name} ([a-h])(\d)", cells)
            x, y, _ = project(thing.position, scene.image_camera)
            if match and 10 < x < SIZE - 10 and 10 < y < SIZE - 10:
                assert match[1] + match[2] == f"{'abcdefgh'[int(GRID * x / SIZE)]}{int(GRID * y / SIZE) + 1}"


def test_sentence_names_all_that_is_clear_from_left_to_right():
    scene = record(
        [
            Thing("green", "cone", (1.0, 0.0, 0.2), size="small"),
            Thing("orange", "box", (-1.0, 0.0, 0.2)),
            Thing("blue", "ball", (0.0, 1.0, 0.2), visible=0.3),
        ]
    )
    sentence = captions(scene, np.random.default_rng(0))[0][2]
    assert "orange box at the left and a small green cone at the right." in sentence
    assert "blue" not in sentence


def test_a_medium_without_a_clear_object_has_no_caption():
    assert captions(record([Thing("red", "ball", (0.0, 0.0, 0.2), visible=0.1)]), np.random.default_rng(0)) == []


def test_caption_of_a_video_is_of_its_first_frame():
    scene = record([Thing("red", "ball", (-1.0, 0.0, 0.2), step=(0.13, 0.0, 0.0))])
    video = [text for (kind, _), _, text in captions(scene, np.random.default_rng(0)) if kind == "video"]
    assert "at the left" in video[0] and " b" in video[1]


@pytest.mark.parametrize(
    ("box", "words"),
    [
        ((0, 0, 10, 10), "at the upper left"),
        ((50, 0, 60, 10), "at the top"),
        ((100, 0, 110, 10), "at the upper right"),
        ((0, 50, 10, 60), "at the left"),
        ((50, 50, 60, 60), "in the centre"),
        ((100, 50, 110, 60), "at the right"),
        ((0, 100, 10, 110), "at the lower left"),
        ((50, 100, 60, 110), "at the bottom"),
        ((100, 100, 111, 111), "at the lower right"),
    ],
)
def test_place_words(box, words):
    assert place_words(Appearance(box=tuple(map(float, box)), visible=1.0), VIEW) == words


def test_place_stays_on_the_grid():
    corner = Appearance(box=(float(SIZE), float(SIZE), float(SIZE), float(SIZE)), visible=1.0)
    assert place(corner, VIEW, GRID) == (GRID - 1, GRID - 1)


def test_an_object_without_a_size_is_described_without_one():
    thing = random_record(0).objects[0]
    bare = thing.model_copy(update={"attributes": {"colour": "red"}})
    assert describe(bare) == f"red {thing.category}"


def test_captions_are_deterministic_and_vary_with_the_seed():
    assert written(5) == written(5)
    assert len({str(written(5, seed)) for seed in range(8)}) > 1
