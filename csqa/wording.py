# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""Wording of questions by a language model, which may say a question in other words, and nothing else.

It is not told the answer. A wording is taken only if it has the form asked for; is about as long as the template's, holds the
same names and choices, and does not give the answer away; and if a second request, which sees the wording and the names in
the scene but not the question, reads it as the same program, which is executed again. Else the template's words stay.
"""

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import groupby, islice
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field
from tqdm import tqdm

from polyv.csqa.endpoint import Endpoint, MalformedError
from polyv.csqa.executor import execute
from polyv.csqa.looks import IllPosedError
from polyv.csqa.programs import QuestionProgram
from polyv.csqa.questions import BY_NAME, TEMPLATES
from polyv.csqa.reading import PREDICATE_SLOTS, program_of, slots_of
from polyv.csqa.records import SceneRecord
from polyv.csqa.selection import TEMPLATE


_BY_MODEL = re.compile(r"openai:(.+)")
_FEWEST, _MOST, _LONGER = 3, 30, 2.0  # words; of the template's
_SCENES = 200  # at a time

_WORD = """\
You word questions for a data set about images, videos and 3D scenes. Say the question that you are given in other words:
natural, fluent, one or two short sentences, the same question with the same possible answers. Keep every name of an object
exactly as it is, keep which view or picture is meant, keep who does what to whom, and keep the choice of answers where one is
offered. Do not answer it, and add nothing."""
_READ = """\
You read a question about images, videos and 3D scenes and say which of these kinds it is, and what stands in its places. Names
of objects must be among those of the scene, as they stand there; views are first, second and so on. Give null for places that
its kind does not have, or that the question leaves open. If it is of none of these kinds, its kind is "none". If it asks
whether something is not so, where the example asks whether it is, it is negated. Kinds, each with an example:"""


class Wording(BaseModel):
    """A question in other words."""

    model_config = ConfigDict(extra="forbid")

    question: str


class Reading(BaseModel):
    """What a question asks: its kind, and what stands in the places of that kind."""

    model_config = ConfigDict(extra="forbid")

    kind: str
    negated: bool
    a: str | None = Field(description="an object")
    b: str | None = Field(description="an object")
    c: str | None = Field(description="an object")
    view: str | None = Field(description="an ordinal number")
    other: str | None = Field(description="an ordinal number, of another view")
    under: str | None = Field(description="what something rests on")
    p: str | None = Field(description="a relation")
    q: str | None = Field(description="another relation")


class Rejection(NamedTuple):
    """A wording that was not taken: of which row, why, and what it was."""

    id: str
    cause: str
    detail: str
    plain: str
    wording: str | None


def model_of(wording: str) -> str | None:
    """The model of "openai:MODEL"; None for "template". ValueError for anything else."""
    if wording == TEMPLATE:
        return None
    if not (found := _BY_MODEL.fullmatch(wording)):
        raise ValueError(
            f"wording: got {wording!r}, expected {TEMPLATE!r} or 'openai:MODEL', such as 'openai:gpt-4o'."
        )
    return found[1]


def word(
    rows: Sequence[dict[str, Any]], records: Iterable[SceneRecord], endpoint: Endpoint, progress: bool = True
) -> tuple[list[dict[str, Any]], list[Rejection]]:
    """The rows, each in a model's words where these hold, and what was not taken.

    Args:
        rows: as `polyv.csqa.selection.select` gives them.
        records: the graphs of their scenes, and of others, in the same order.
        endpoint: of the model.
        progress: show a progress bar.

    Raises:
        EndpointError: the endpoint does not answer. What it answered so far is in its cache.
    """
    worded: list[dict[str, Any]] = []
    rejections = []
    of_scene = {scene_id: list(its) for scene_id, its in groupby(rows, key=lambda row: row["scene_id"])}
    asked = (record for record in records if record.scene_id in of_scene)
    with tqdm(total=len(rows), desc=f"wording by {endpoint.model}", unit="question", disable=not progress) as bar:
        while some := list(islice(asked, _SCENES)):  # a graph takes a megabyte
            pairs = [(row, record) for record in some for row in of_scene[record.scene_id]]
            results = endpoint.run([_word(row, record, endpoint) for row, record in pairs], bar.update)
            for (row, _), result in zip(pairs, results, strict=True):
                if isinstance(result, Rejection):
                    rejections.append(result)
                    worded.append(row)
                else:
                    worded.append(_reworded(row, *result, f"openai:{endpoint.model}"))
    return worded, rejections


def _reworded(row: dict[str, Any], question: str, reading: Reading, wording: str) -> dict[str, Any]:
    """A row with another question, in its messages as well, and how that was read."""
    asked, answered = row["messages"]
    content = [{"type": "text", "text": question} if entry["type"] == "text" else entry for entry in asked["content"]]
    read = json.dumps({"question": question, **reading.model_dump(exclude_none=True)}, ensure_ascii=False)
    messages = [{**asked, "content": content}, answered]
    return {**row, "question": question, "wording": wording, "reading": read, "messages": messages}


async def _word(row: dict[str, Any], record: SceneRecord, endpoint: Endpoint) -> tuple[str, Reading] | Rejection:
    plain, question = row["plain"], None
    try:
        shown = " and ".join(row["shown"])
        text = f"Shown with it: {shown}.\nQuestion: {plain}"
        question = " ".join((await endpoint.ask(Wording, _WORD, text)).question.strip(" \"'“”").split())
        if fault := fault_in(row, question, record):
            return Rejection(row["id"], fault, "", plain, question)
        names = ", ".join(sorted({thing.name for thing in record.objects}))
        relations = ", ".join(sorted({relation.predicate for relation in record.relations}))
        text = f"Objects: {names}.\nRelations: {relations}.\nShown with it: {shown}.\nQuestion: {question}"
        reading = await endpoint.ask(Reading, f"{_READ}\n\n{_kinds(tuple(row['shown']))}", text)
    except MalformedError as error:
        cause = "refused" if str(error).startswith("refused") else "schema"
        return Rejection(
            row["id"], cause if question is None else f"{cause}, of the reading", str(error), plain, question
        )
    fault = contradiction(row, record, reading)
    return Rejection(row["id"], fault, reading.model_dump_json(), plain, question) if fault else (question, reading)


def fault_in(row: dict[str, Any], question: str, record: SceneRecord) -> str | None:
    """What is wrong with a wording of a row's template question by itself, if something is."""
    plain, answer = row["plain"], row["answer"]
    length = len(question.split())
    if not _FEWEST <= length <= max(_MOST, _LONGER * len(plain.split())):
        return "length"
    if question[-1] not in "?." or "<" in question or any(unicodedata.category(sign)[0] == "C" for sign in question):
        return "no plain question"
    slots = slots_of(BY_NAME[row["template"]], plain, record) or {}
    for slot, word in slots.items():
        if slot not in PREDICATE_SLOTS and not _holds(question, word):
            return f"without {word!r}"
    offered = [word for word in (answer, *row["distractors"]) if _holds(plain, word)]
    if answer in offered:
        return next((f"without {word!r}" for word in offered if not _holds(question, word)), None)
    return "gives the answer away" if _holds(question, answer) else None


def _holds(text: str, word: str) -> bool:
    return re.search(rf"\b{re.escape(word)}\b", text, re.IGNORECASE) is not None


def contradiction(row: dict[str, Any], record: SceneRecord, reading: Reading) -> str | None:
    """What a reading of a row's question has it mean, if that is something else than what the row asks."""
    if reading.kind != row["template"]:
        return "read as of another kind"
    if reading.negated:
        return "read as negated"
    template = BY_NAME[row["template"]]
    meant = slots_of(template, row["plain"], record) or {}
    try:
        slots = {slot: _as_named(getattr(reading, slot), meant[slot]) for slot in meant}
        program = program_of(template, slots, record)
        answer = execute(program, record).answer
    except IllPosedError:
        return "read as ill-posed"
    except (KeyError, ValueError):
        return "read with words that its kind, or the scene, does not have"
    if answer != row["answer"]:
        return "read with another answer"
    same = _in_order(program) == _in_order(QuestionProgram.model_validate_json(row["program"]).answer)
    return None if same and slots.get("under") == meant.get("under") else "read as about something else"


def _as_named(word: str | None, name: str) -> str:
    """A word as the scene has it, if it says the same: "The red ball " is "red ball"."""
    plain = " ".join((word or "").casefold().removeprefix("the ").split())
    return name if plain in (name.casefold(), f"the {name.casefold()}") else plain


def _in_order(program: Any) -> Any:
    """A program as data, of which the order of things to choose from is of no matter."""
    if isinstance(program, BaseModel):
        program = program.model_dump(exclude_none=True)
    if isinstance(program, dict):
        ordered = {key: _in_order(value) for key, value in program.items()}
        if program.get("op") == "those":
            ordered["of"] = sorted(ordered["of"], key=str)
        return ordered
    return [_in_order(each) for each in program] if isinstance(program, list | tuple) else program


def _kinds(shown: tuple[str, ...]) -> str:
    """The kinds of questions that show these media, a line each."""
    return "\n".join(
        json.dumps({"kind": template.name, "example": template.wordings[0]})
        for template in TEMPLATES
        if template.shown == shown
    )


def write_rejections(path: Path, rejections: Sequence[Rejection]) -> Counter[str]:
    """Write them as JSON Lines, for reading; returns how many there are of each cause."""
    lines = [json.dumps(rejection._asdict(), ensure_ascii=False) + "\n" for rejection in rejections]
    path.write_text("".join(lines), encoding="utf-8", errors="backslashreplace")
    return Counter(rejection.cause for rejection in rejections)


__all__ = ["Reading", "Rejection", "Wording", "contradiction", "fault_in", "model_of", "word", "write_rejections"]
