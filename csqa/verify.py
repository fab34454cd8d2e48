# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""`polyv csqa verify`: execute every program of a dataset again, on the scene graphs that come with it."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq
from pydantic import ValidationError
from tqdm import tqdm

from polyv.csqa.executor import execute
from polyv.csqa.looks import IllPosedError
from polyv.csqa.programs import QuestionProgram
from polyv.csqa.questions import BY_NAME
from polyv.csqa.reading import OBJECT_SLOTS, program_of, slots_of
from polyv.csqa.records import SPLITS, SceneRecord, first_fault, read_records
from polyv.csqa.selection import TEMPLATE
from polyv.csqa.templates import Scene
from polyv.csqa.wording import Reading, contradiction, fault_in


_COLUMNS = (
    "id", "scene_id", "family", "template", "question", "plain", "wording", "reading", "answer", "distractors", "shown", "needed", "messages", "program", "support",
)  # fmt: skip


class Mismatch(NamedTuple):
    """A row that does not hold what its graph gives."""

    id: str
    template: str
    cause: str


class Report(NamedTuple):
    """How many rows of each template were executed, and what did not agree."""

    checked: Counter[str]
    mismatches: list[Mismatch]

    def to_text(self) -> str:
        """A table, and a line for each mismatch."""
        wrong = Counter(mismatch.template for mismatch in self.mismatches)
        width = max(map(len, self.checked), default=8)
        lines = [f"{'template':{width}}  rows  wrong"]
        lines += [f"{name:{width}} {count:5}  {wrong.get(name, 0):5}" for name, count in sorted(self.checked.items())]
        lines += [f"{'all':{width}} {self.checked.total():5}  {len(self.mismatches):5}"]
        return "\n".join([*lines, *(f"{mismatch.id}: {mismatch.cause}" for mismatch in self.mismatches)])


def verify(folder: str | Path, progress: bool = True) -> Report:
    """Execute every program of a dataset again.

    Args:
        folder: as `polyv csqa build` wrote it.
        progress: show a progress bar.

    Raises:
        FileNotFoundError: it holds no dataset, or not the graphs of one of its splits.
        ValueError: a graph cannot be read.
    """
    folder = Path(folder)
    paths = {split: sorted((folder / "data").glob(f"{split}-*.parquet")) for split in SPLITS}
    if not any(paths.values()):
        raise FileNotFoundError(f"{folder}: no data/*.parquet there. Make a dataset with `polyv csqa build`.")
    checked: Counter[str] = Counter()
    mismatches = []
    ids: Counter[str] = Counter()
    scenes: dict[str, str] = {}
    for split, files in paths.items():
        if not files:
            continue
        _check_files(files)
        graphs = folder / "graphs" / f"{split}.jsonl"
        records = read_records(graphs)
        record = None
        # Rows and graphs are in one order: of thousands of graphs, one is held at a time.
        for row in tqdm(_rows(files), desc=f"verify {split}", unit="row", disable=not progress):
            while record is None or record.scene_id != row["scene_id"]:
                record = next(records, None)
                if record is None:
                    raise FileNotFoundError(
                        f"{graphs}: no graph of scene {row['scene_id']}, of which {row['id']} asks."
                    )
            checked[row["template"]] += 1
            fault = check_row(row, record)
            if scenes.setdefault(row["scene_id"], split) != split:
                fault = fault or f"its scene is in {scenes[row['scene_id']]}, too"
            ids[row["id"]] += 1
            if ids[row["id"]] > 1:
                fault = fault or "another row has the same id"
            if fault:
                mismatches.append(Mismatch(row["id"], row["template"], fault))
    return Report(checked, mismatches)


def verify_pixels(folder: str | Path, scenes: int, seed: int = 0, progress: bool = True) -> Report:
    """Derive answers about the simulated world again by other code, from questions' words and rendered pixels.

    Args:
        folder: as `polyv csqa build` wrote it.
        scenes: how many of the test split, drawn at random; about a second each.
        seed: of the draw.
        progress: show a progress bar.

    Raises:
        FileNotFoundError: it holds no test split.
        ValueError: its scenes are not of the simulated world.
    """
    from polyv.csqa.pixels import Pixels, derive

    folder = Path(folder)
    files = sorted((folder / "data").glob("test-*.parquet"))
    if not files:
        raise FileNotFoundError(f"{folder}: no data/test-*.parquet there. Make a dataset with `polyv csqa build`.")
    records = list(read_records(folder / "graphs" / "test.jsonl"))
    drawn = np.random.default_rng(seed).permutation(len(records))[:scenes]
    chosen = {records[i].scene_id: records[i] for i in drawn}
    rows: dict[str, list[dict[str, Any]]] = {scene_id: [] for scene_id in chosen}
    for row in _rows(files):
        if row["scene_id"] in rows:
            rows[row["scene_id"]].append(row)
    checked: Counter[str] = Counter()
    mismatches = []
    for scene_id, record in tqdm(chosen.items(), desc="verify pixels", unit="scene", disable=not progress):
        told, view = record.provenance, record.image_camera
        if record.source != "world" or view is None:
            raise ValueError(
                f"{folder}: scene {scene_id} is of {record.source}: only the simulated world can be rendered."
            )
        pixels = Pixels(record.split, int(told["seed"]), int(told["index"]), view.width)
        for row in rows[scene_id]:
            slots = slots_of(BY_NAME[row["template"]], row["plain"], record)
            try:
                answer = None if slots is None else derive(row["template"], slots, pixels)
            except ValueError as error:
                answer = f"{error}"
            if answer is not None:
                checked[row["template"]] += 1
                if answer != row["answer"]:
                    cause = f"the answer to {row['question']!r} is {row['answer']!r}, pixels say {answer!r}"
                    mismatches.append(Mismatch(row["id"], row["template"], cause))
    return Report(checked, mismatches)


def check_row(row: dict[str, Any], record: SceneRecord) -> str | None:
    """What is wrong with a row, if something is."""
    template = BY_NAME.get(row["template"])
    if template is None:
        return f"there is no template {row['template']!r}"
    for name in ("family", "needed"):
        if row[name] != getattr(template, name):
            return f"{name} is {row[name]!r}, but its template's is {getattr(template, name)!r}"
    if tuple(row["shown"]) != template.shown:
        return f"shown is {row['shown']}, but its template shows {list(template.shown)}"
    try:
        program = QuestionProgram.model_validate_json(row["program"]).answer
        answer = execute(program, record)
    except ValidationError as error:
        return f"program: {first_fault(error)}"
    except IllPosedError as error:
        return f"the program has no certain answer: {error}"
    if row["answer"] != answer.answer:
        return f"the answer is {row['answer']!r}, the program gives {answer.answer!r}"
    if row["support"] != answer.support.model_dump_json():
        return f"support is {row['support']}, the program gives {answer.support.model_dump_json()}"
    if tuple(row["distractors"]) != answer.distractors:
        return f"distractors are {row['distractors']}, the program gives {list(answer.distractors)}"
    return _check_text(row) or _check_words(row, record)


def _check_text(row: dict[str, Any]) -> str | None:
    if [message["role"] for message in row["messages"]] != ["user", "assistant"]:
        return "messages are not a question and its answer"
    question, answer = row["messages"]
    media = [entry["type"] for entry in question["content"] if entry["type"] != "text"]
    text = [entry["text"] for entry in question["content"] if entry["type"] == "text"]
    if media != list(row["shown"]) or text != [row["question"]]:
        return "messages do not show and ask what the row says"
    if [entry["text"] for entry in answer["content"]] != [row["answer"]]:
        return "messages do not give the row's answer"
    return None


def _check_words(row: dict[str, Any], record: SceneRecord) -> str | None:
    """Whether the question's words stand for what its program is about, each in its role."""
    template, question = BY_NAME[row["template"]], row["plain"]
    if row["question"] != question:
        if row["wording"] == TEMPLATE:
            return f"the question is {row['question']!r}, its template's words are {question!r}"
        if fault := fault_in(row, row["question"], record) or _check_reading(row, record):
            return f"the wording {row['question']!r} of {question!r}: {fault}"
    slots = slots_of(template, question, record)
    if slots is None:
        return f"the question {question!r} is no wording of its template"
    named = {thing.name: thing for thing in record.objects}
    for slot in OBJECT_SLOTS:
        if slot in slots and slots[slot] not in named:
            return f"the question names {slots[slot]!r}, which the scene does not hold"
    try:
        program = program_of(template, slots, record)
    except ValueError as error:
        return str(error)
    if program != QuestionProgram.model_validate_json(row["program"]).answer:
        return f"the question {question!r} is about something else than its program"
    scene = Scene(record, np.random.default_rng(0))
    if "under" in slots and scene.support(named[slots["a"]]) != slots["under"]:
        return f"the question says that the {slots['a']} rests on the {slots['under']}"
    return None


def _check_reading(row: dict[str, Any], record: SceneRecord) -> str | None:
    """Whether a model's words are those that were read back, and the reading is what the row asks."""
    try:
        told = json.loads(row["reading"] or "{}")
        read = told.pop("question", None)
        reading = Reading.model_validate({**dict.fromkeys(Reading.model_fields), **told})
    except ValueError as error:
        return f"no reading ({error})"
    return contradiction(row, record, reading) if read == row["question"] else f"{read!r} was read"


def _check_files(files: list[Path]) -> None:
    """Refuse a split of which a file is missing: their names tell how many there are."""
    totals = {file.stem.rpartition("-of-")[2] for file in files}
    if len(totals) > 1 or not totals <= {f"{len(files):05d}"}:
        raise FileNotFoundError(
            f"{files[0].parent}: {len(files)} files of {files[0].name.partition('-')[0]}, but their names tell of {', '.join(totals)}."
        )


def _rows(files: list[Path]) -> Iterator[dict[str, Any]]:
    for file in files:
        for batch in pq.ParquetFile(file).iter_batches(batch_size=200, columns=list(_COLUMNS)):
            yield from batch.to_pylist()


__all__ = ["Mismatch", "Report", "check_row", "verify", "verify_pixels"]
