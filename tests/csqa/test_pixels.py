# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""Answers derived from pixels: what they agree with, and what they catch that executing programs again does not."""

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from polyv import cli
from polyv.csqa import executor
from polyv.csqa.dataset import build
from polyv.csqa.media import FEATURES
from polyv.csqa.pixels import DERIVABLE, Pixels, derive
from polyv.csqa.questions import TEMPLATES
from polyv.csqa.records import read_records, write_records
from polyv.csqa.selection import select
from polyv.csqa.templates import Scene
from polyv.csqa.verify import verify, verify_pixels


SIZE = 112  # at fewer pixels a mask's middle says too little


@pytest.fixture(scope="module")
def csqa(tmp_path_factory) -> Path:
    """A dataset whose test split asks all that its few scenes give."""
    folder = build(tmp_path_factory.mktemp("csqa-pixels") / "csqa", 200, 3, size=SIZE, workers=1, progress=False)
    ask_again(folder)
    return folder


def ask_again(folder: Path) -> list[dict]:
    """Replace the test split's rows by all that today's templates and executor give; without media, which are not looked at."""
    (file,) = folder.glob("data/test-*")
    rows = select(read_records(folder / "graphs" / "test.jsonl"), 0)
    write(file, [{**row, "images": [], "videos": [], "scenes": []} for row in rows])
    return rows


def write(file: Path, rows: list[dict]) -> None:
    pq.write_table(pa.Table.from_pylist(rows, schema=FEATURES.arrow_schema), file)


def test_pixels_say_what_the_programs_say(csqa, capsys):
    assert cli.main(["csqa", "verify", str(csqa), "--pixels", "9"]) == 0
    table = capsys.readouterr().out.split("from the pixels of up to 9 scenes, seed 0\n")[1].splitlines()
    assert int(table[-1].split()[1]) > 40 and table[-1].split()[2] == "0"
    assert len(table) > 15


def test_most_templates_and_three_families_can_be_derived():
    assert set(DERIVABLE) <= {template.name for template in TEMPLATES} and len(DERIVABLE) >= 29


@pytest.mark.parametrize(
    ("name", "broken", "caught"),
    [
        # Left and right mirrored, from an object's standpoint.
        (
            "side_of",
            lambda right: lambda angle: {"left": "right", "right": "left", None: None}[right(angle)],
            {"side_from", "side_from_picture"},
        ),
        # Ahead and behind.
        (
            "ahead_of",
            lambda right: lambda angle: {"ahead": "behind", "behind": "ahead", None: None}[right(angle)],
            {"ahead_from", "ahead_from_picture"},
        ),
    ],
)
def test_a_subtly_wrong_executor_agrees_with_itself_but_not_with_pixels(
    csqa, tmp_path, monkeypatch, name, broken, caught
):
    copy = shutil.copytree(csqa, tmp_path / "copy")
    monkeypatch.setattr(executor.sight, name, broken(getattr(executor.sight, name)))
    ask_again(copy)
    assert not any(mismatch.id.startswith("test") for mismatch in verify(copy, progress=False).mismatches)
    report = verify_pixels(copy, 9, progress=False)
    assert {mismatch.template for mismatch in report.mismatches} == caught
    assert len(report.mismatches) == sum(report.checked[template] for template in caught)
    assert all("pixels say" in mismatch.cause for mismatch in report.mismatches)


def test_an_executor_that_takes_the_start_for_the_end_differs_from_pixels(records, monkeypatch):
    (template,) = (template for template in TEMPLATES if template.name == "ends_on")
    asked = [(r, q) for r in records for q in template.ask(Scene(r, np.random.default_rng(0)))][:16]
    right = executor._Execution._rests_on
    monkeypatch.setattr(
        executor._Execution, "_rests_on", lambda run, node: right(run, node.model_copy(update={"at": "start"}))
    )
    differ = 0
    for record, question in asked:
        told = record.provenance
        pixels = Pixels(record.split, int(told["seed"]), int(told["index"]), SIZE)
        derived = derive("ends_on", question.proposal.slots, pixels)
        assert derived == question.answer.answer
        differ += derived != executor.execute(question.proposal.program, record).answer
    assert len(asked) == 16 and differ > 3


def test_a_wording_that_says_something_else_than_its_program_is_caught(csqa, tmp_path):
    """The program is right, the question is not: its words are compared with the program, and with pixels."""
    copy = shutil.copytree(csqa, tmp_path / "copy")
    (file,) = copy.glob("data/test-*")
    rows = pq.read_table(file).to_pylist()
    row = next(row for row in rows if row["template"] == "beside_in_view")
    record = next(r for r in read_records(copy / "graphs" / "test.jsonl") if r.scene_id == row["scene_id"])
    one, other = (thing.name for thing in record.objects if thing.name in row["question"])
    row["question"] = row["question"].replace(one, "@").replace(other, one).replace("@", other)
    row["plain"] = row["messages"][0]["content"][-1]["text"] = row["question"]
    write(file, rows)
    for report in (verify(copy, progress=False), verify_pixels(copy, 100, progress=False)):
        assert [mismatch.id for mismatch in report.mismatches] == [row["id"]]


def test_scenes_of_other_sources_cannot_be_rendered(csqa, tmp_path):
    copy = shutil.copytree(csqa, tmp_path / "copy")
    graphs = copy / "graphs" / "test.jsonl"
    write_records(graphs, [r.model_copy(update={"source": "mine"}) for r in list(read_records(graphs))])
    with pytest.raises(ValueError, match=r"scene test-\d+ is of mine: only the simulated world can be rendered"):
        verify_pixels(copy, 1, progress=False)
    shutil.rmtree(copy / "data")
    with pytest.raises(FileNotFoundError, match=r"no data/test-\*\.parquet"):
        verify_pixels(copy, 1, progress=False)
