# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""Wording of questions by a language model, which may say a question in other words, and nothing else.

It is not told the answer. A wording is taken only if it has the form asked for; is about as long as the template's, and
does not give the answer away; and if a second request, which sees the wording and the names in the scene but not the
question, reads it as a program that gives the same answer, resting on the same. Else the template's words stay.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from polyv.csqa.endpoint import Endpoint, MalformedError, run_all
from polyv.csqa.executor import execute
from polyv.csqa.looks import IllPosedError
from polyv.csqa.programs import QuestionProgram
from polyv.csqa.questions import TEMPLATES
from polyv.csqa.reading import program_of
from polyv.csqa.records import SceneRecord
from polyv.csqa.selection import TEMPLATE


_BY_MODEL = re.compile(r"openai:(.+)")
_FEWEST, _MOST, _LONGER = 3, 30, 2.0  # words; of the template's

_WORD = """\
You word questions for a data set about images, videos and 3D scenes. Say the question that you are given in other words:
natural, fluent, one or two short sentences, the same question with the same possible answers. Keep every name of an object
exactly as it is, keep which view or picture is meant, keep who does what to whom, and keep the choice of answers where one is
offered. Do not answer it, and add nothing."""
_READ = """\
You read a question about images, videos and 3D scenes and say which of these kinds it is, and what stands in its places. Names
of objects must be among those of the scene. Leave out places that its kind does not have. Kinds, each with an example:"""


class Wording(BaseModel):
    """A question in other words."""

    model_config = ConfigDict(extra="forbid")

    question: str


class Reading(BaseModel):
    """What a question asks: its kind, and what stands in the places of that kind."""

    model_config = ConfigDict(extra="forbid")

    kind: str
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
        records: the graphs of their scenes.
        endpoint: of the model.
        progress: show a progress bar.

    Raises:
        EndpointError: the endpoint does not answer. What it answered so far is in its cache.
    """
    wanted = {row["scene_id"] for row in rows}
    known = {record.scene_id: record for record in records if record.scene_id in wanted}
    jobs = [_word(row, known[row["scene_id"]], endpoint) for row in rows]
    results = run_all(jobs, f"wording by {endpoint.model}", progress)
    worded = [
        row if isinstance(result, Rejection) else reworded(row, result, f"openai:{endpoint.model}")
        for row, result in zip(rows, results, strict=True)
    ]
    return worded, [result for result in results if isinstance(result, Rejection)]


def reworded(row: dict[str, Any], question: str, wording: str) -> dict[str, Any]:
    """A row with another question, in its messages as well."""
    asked, answered = row["messages"]
    content = [{"type": "text", "text": question} if entry["type"] == "text" else entry for entry in asked["content"]]
    return {**row, "question": question, "wording": wording, "messages": [{**asked, "content": content}, answered]}


async def _word(row: dict[str, Any], record: SceneRecord, endpoint: Endpoint) -> str | Rejection:
    plain, question = row["plain"], None
    try:
        shown = " and ".join(row["shown"])
        text = f"Shown with it: {shown}.\nQuestion: {plain}"
        question = " ".join((await endpoint.ask(Wording, _WORD, text)).question.split())
        if fault := fault_in(plain, question, row["answer"]):
            return Rejection(row["id"], fault, "", plain, question)
        names = ", ".join(sorted({thing.name for thing in record.objects}))
        relations = ", ".join(sorted({relation.predicate for relation in record.relations}))
        text = f"Objects: {names}.\nRelations: {relations}.\nShown with it: {shown}.\nQuestion: {question}"
        reading = await endpoint.ask(Reading, f"{_READ}\n\n{_kinds(tuple(row['shown']))}", text)
    except MalformedError as error:
        return Rejection(
            row["id"], "schema" if question is None else "schema of the reading", str(error), plain, question
        )
    fault = _contradiction(row, record, reading)
    return Rejection(row["id"], fault, reading.model_dump_json(), plain, question) if fault else question


def fault_in(plain: str, question: str, answer: str) -> str | None:
    """What is wrong with a wording by itself, if something is."""
    length = len(question.split())
    if not _FEWEST <= length <= max(_MOST, _LONGER * len(plain.split())):
        return "length"
    if question[-1] not in "?.":
        return "no question"
    given = re.compile(rf"\b{re.escape(answer)}\b", re.IGNORECASE)
    return "gives the answer away" if given.search(question) and not given.search(plain) else None


def _contradiction(row: dict[str, Any], record: SceneRecord, reading: Reading) -> str | None:
    template = _TEMPLATES.get(reading.kind)
    if template is None:
        return "read as of no kind"
    slots = {slot: word for slot, word in reading.model_dump(exclude={"kind"}).items() if word}
    wanted = set(re.findall(r"\{(\w+)\}", "".join(template.wordings)))
    try:
        program = program_of(template, {slot: slots[slot] for slot in wanted}, record)
        read = execute(program, record)
    except IllPosedError:
        return "read as ill-posed"
    except (KeyError, ValueError):
        return "read with words that its kind, or the scene, does not have"
    if read.answer != row["answer"]:
        return "read with another answer"
    meant = execute(QuestionProgram.model_validate_json(row["program"]).answer, record)
    return None if set(read.support.objects) == set(meant.support.objects) else "read as about something else"


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
    path.write_text("".join(lines), encoding="utf-8")
    return Counter(rejection.cause for rejection in rejections)


_TEMPLATES = {template.name: template for template in TEMPLATES}

__all__ = ["Reading", "Rejection", "Wording", "fault_in", "model_of", "word", "write_rejections"]
