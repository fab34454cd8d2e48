# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
from pathlib import Path

import av
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from polyv.world import show
from polyv.world.conversations import write_jsonl
from polyv.world.show import contact_sheet
from tests.world.factory import FPS, FRAMES, random_record


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Three scenes whose pictures are plain colours."""
    folder = tmp_path_factory.mktemp("world")
    records = [random_record(index) for index in range(3)]
    for number, record in enumerate(records):
        (folder / record.media.scene / "color").mkdir(parents=True)
        picture = Image.new("RGB", (32, 32), (60 * number, 200, 40))
        picture.save(folder / record.media.image)
        picture.save(folder / record.media.moved)
        for view in range(6):
            picture.save(folder / record.media.scene / "color" / f"{view}.png")
        with av.open(str(folder / record.media.video), "w") as container:
            stream = container.add_stream("libx264", rate=int(FPS))
            stream.width = stream.height = 32
            stream.pix_fmt = "yuv420p"
            for _ in range(FRAMES):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(np.asarray(picture), format="rgb24")))
            container.mux(stream.encode())
    write_jsonl(folder, records)
    return folder


def test_draws_as_many_scenes_as_asked(folder, tmp_path):
    one = Image.open(contact_sheet(folder, tmp_path / "new" / "one.png", 1))
    two = Image.open(contact_sheet(folder, tmp_path / "two.png", ["000002", "000000"]))
    assert two.size == (one.width, 2 * one.height)


def test_picks_scenes_with_motion_and_without():
    there = [f"{number:06d}" for number in range(10)]
    moving = {"000001", "000002", "000006"}
    picked = show._pick(there, 4, moving)
    assert len(set(picked)) == 4 and picked == sorted(picked) and len(moving.intersection(picked)) == 2
    assert set(show._pick(there, 1, moving)) <= moving
    assert moving <= set(show._pick(there, 9, moving)) and len(show._pick(there, 9, moving)) == 9
    assert show._pick(there, 99, moving) == show._pick(there, 10, set()) == there
    assert len(show._pick(there, 4, set(there))) == 4


def test_what_moves_is_known_by_its_questions(folder):
    questions = show._by_scene(folder / "questions.jsonl")
    moved = {r.scene_id for r in map(random_record, range(3)) if any(x.predicate == "moves" for x in r.relations)}
    assert {scene for scene, rows in questions.items() if show._shows_motion(rows)} <= moved


def test_answer_stands_right_behind_its_question_and_all_inside():
    figure = Figure(figsize=(6.55, 3.75))
    FigureCanvasAgg(figure)
    asked = ["Will it fall?", "You stand here " + "and look there " * 8 + "and what do you see?"]
    rows = [{"suite": "s", "question": q, "answer": "cylinder", "messages": [{"content": []}]} for q in asked]
    show._write_questions(figure, rows)
    lines = [(text.get_text(), text.get_window_extent()) for text in figure.texts]
    answers = [place for words, place in lines if words == "cylinder"]
    ends = [place for words, place in lines if words.endswith("?")]
    for end, answer in zip(ends, answers, strict=True):
        assert 0 < answer.x0 - end.x1 < 20 and abs(answer.y0 - end.y0) < 4
    assert max(place.x1 for _, place in lines) < figure.bbox.x1


def test_as_many_questions_as_there_is_room_for(folder):
    for rows in show._by_scene(folder / "questions.jsonl").values():
        chosen = show._choose(rows, 0)
        assert sum(len(show._wrap(row)) for row in chosen) <= show._LINES
        assert {row["suite"] for row in chosen} == {row["suite"] for row in rows}
        assert len({row["id"] for row in chosen}) == len(chosen) > 10


def test_more_scenes_than_there_are_means_all(folder, tmp_path):
    sheet = Image.open(contact_sheet(folder, tmp_path / "all.png", 99))
    assert sheet.height > sheet.width / 3 * 1.5


def test_shows_the_pictures_and_writes_beside_them(folder, tmp_path):
    pixels = np.asarray(Image.open(contact_sheet(folder, tmp_path / "sheet.png", ["000001"])).convert("RGB")).astype(
        int
    )
    left, right = np.split(pixels, 2, axis=1)
    assert (np.abs(left - (60, 200, 40)).max(axis=2) < 12).mean() > 0.3, "image, video and views in their colour"
    assert (right.max(axis=2) < 120).mean() > 0.005, "dark text on the right"


def test_same_folder_same_picture(folder, tmp_path):
    one, two = (contact_sheet(folder, tmp_path / name, 1).read_bytes() for name in ("a.png", "b.png"))
    assert one == two


def test_missing_files_and_scenes_are_named(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match="polyv world make"):
        contact_sheet(tmp_path, tmp_path / "sheet.png")
    with pytest.raises(FileNotFoundError, match="no 000009 in the folder, which holds 000000 to 000002"):
        contact_sheet(folder, tmp_path / "sheet.png", ["000009"])


@pytest.mark.parametrize("scenes", [0, []])
def test_no_scenes_are_refused(folder, tmp_path, scenes):
    with pytest.raises(ValueError, match="scenes: got"):
        contact_sheet(folder, tmp_path / "sheet.png", scenes)
