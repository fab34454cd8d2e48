# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

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
