# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""Transfer: the same questions in every modality, and nothing but the medium differs."""

import json
from pathlib import Path

import pytest

from polyv.recipes.data import MEDIA, read_content, read_rows
from polyv.recipes.transfer import FAMILIES, main
from polyv.world.make import make_world


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
