# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""Transfer: the same questions in every modality, and nothing but the medium differs."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from polyv.recipes import transfer
from polyv.recipes.data import read_rows
from polyv.recipes.rows import MEDIA, read_content
from polyv.recipes.transfer import FAMILIES, main
from polyv.world.make import make_world
from polyv.world.questions import SUITES
from polyv.world.sightings import Sight


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("transfer")
    make_world(folder / "world", scenes=6, seed=3, size=32, workers=1, progress=False)
    main(["--world", str(folder / "world"), "--out", str(folder / "out")])
    return folder / "out"


def lines(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.mark.parametrize("family", list(FAMILIES))
def test_modalities_differ_in_their_medium_alone(prepared, family):
    for what in ("", "-questions"):
        words = []
        for kind in MEDIA:
            rows = lines(prepared / f"{family}-{kind}{what}.jsonl")
            assert rows
            for row in rows:
                shown = [e for m in row["messages"] for e in m["content"] if e["type"] != "text"]
                assert [entry["type"] for entry in shown] == [kind]
                assert (prepared / shown[0][kind]).exists()
            words.append(
                [[e["text"] for m in r["messages"] for e in m["content"] if e["type"] == "text"] for r in rows]
            )
        assert words[0] == words[1] == words[2]


def test_what_the_image_does_not_show_is_asked_nowhere(prepared, tmp_path, monkeypatch):
    """The simulated world leaves nothing out of its images so far; one that did would have to be skipped."""
    asked = {row["scene_id"] for row in lines(prepared / "spatial-image-questions.jsonl")}
    cut = min(asked)

    def cut_sight(record):
        sight = Sight(record)
        return SimpleNamespace(in_image=sight.in_image[record.scene_id == cut :], solids=sight.solids)

    monkeypatch.setattr(transfer, "Sight", cut_sight)
    main(["--world", str(prepared.parent / "world"), "--out", str(tmp_path)])
    files = [tmp_path / f"spatial-{kind}{what}.jsonl" for kind in MEDIA for what in transfer.KINDS]
    assert {row["scene_id"] for row in lines(tmp_path / "spatial-image-questions.jsonl")} == asked - {cut}
    assert all(cut not in {row["scene_id"] for row in lines(file)} for file in files)


def test_no_question_is_of_where_the_camera_stands():
    """From another view the answer to such a one is another."""
    names = {family: {template.name for template in templates} for family, templates in FAMILIES.items()}
    assert "closer_to_camera" not in names["spatial"] and len(names["spatial"]) == 5
    assert names["temporal"] == {template.name for template in SUITES["general_video"]}


def test_silent_rows_show_the_other_modalities_and_ask_what_is_learned(prepared):
    for kind in MEDIA:
        silent, learned = (lines(prepared / f"temporal-{kind}{what}.jsonl") for what in ("-silent", ""))
        for row, answered in zip(silent, learned, strict=True):
            assert set(row["content"]) == set(MEDIA) - {kind} and "messages" not in row
            assert row["teachers"] == answered["content"] and set(row["teachers"]) == {"video", "scene"}
            asked = {m["content"][-1]["text"] for m in answered["messages"] if m["role"] == "user"}
            assert set(row["prompts"]) == asked
        rows = read_rows(prepared / f"temporal-{kind}-silent.jsonl")
        assert all(kind not in read_content(row, "content") for row in rows)
