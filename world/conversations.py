# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""Captions and questions as chat messages in JSONL files: the very format that users' own training data has.

    captions.jsonl   one request and caption a row
    general.jsonl    general questions only, up to eight turns over one medium: the image, the video, the scene, and
                     each further still picture of the scene by itself
    suites.jsonl     questions of all ten suites, up to eight turns over one medium or pair of media
    contents.jsonl   of each scene its media, and the suites' questions about any one of them, without answers
    questions.jsonl  one question a row, for evaluation

Paths are relative to the folder of the JSONL. The same records and seed give the same bytes. "content" names the video
and the scene that show what a training row's medium shows: what teachers see.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from polyv.csqa.balance import Balance
from polyv.files import whole
from polyv.world.captions import captions
from polyv.world.questions import SUITES, Question, ask, ask_general
from polyv.world.records import WorldRecord
from polyv.world.sightings import Sight


# Of captions and questions: raise it whenever the same records give others, and fit the priors anew (polyv.world.priors).
# 2: toppling is no fall, hits that hardly show are not asked about, two more templates are level for each shape.
# 3: general questions on every still picture of a scene; what versions 2 and 3 ask in suites and questions is the same.
# 4: training rows name their content, and contents.jsonl is new; what is asked is the same as in 3.
QUESTIONS_VERSION = 4

FILES = ("captions.jsonl", "general.jsonl", "suites.jsonl", "contents.jsonl", "questions.jsonl")
TURNS = 8

# Questions a template and scene: several where they share a forward pass, one where each is a test item.
_TRAINING_QUESTIONS = 3
_TEST_QUESTIONS = 1
# Scenes that are tried as the second of two videos.
_PARTNERS = 8


def write_jsonl(folder: str | Path, records: Sequence[WorldRecord], seed: int = 0) -> dict[str, int]:
    """Write the five files into `folder`, each whole or not at all; returns rows per file.

    `records` are scenes of one split, in order. Raises ValueError where they mix splits.
    """
    if len({record.split for record in records}) > 1:
        splits = sorted({record.split for record in records})
        raise ValueError(f"records must be of one split, got {splits}; write each split into a folder of its own")
    folder = Path(folder)
    rows = dict.fromkeys(FILES, 0)
    with ExitStack() as stack:
        parts = {name: stack.enter_context(whole(folder / name)) for name in FILES}
        files = {name: stack.enter_context(part.open("w", encoding="utf-8")) for name, part in parts.items()}
        for name, row in _rows(records, seed):
            files[name].write(json.dumps(row, ensure_ascii=False) + "\n")
            rows[name] += 1
    return rows


def _rows(records: Sequence[WorldRecord], seed: int) -> Iterator[tuple[str, dict]]:
    partners = pair_up(records, np.random.default_rng([seed, 1]))
    training, testing, general, stills = (Balance() for _ in range(4))
    for index, record in enumerate(records):
        rng = np.random.default_rng([seed, 2, index])
        partner = records[partners[index]] if index in partners else None
        for number, (medium, request, caption) in enumerate(captions(record, rng)):
            yield "captions.jsonl", _row(record, f"caption-{number}", (medium,), [(request, caption)])
        yield from _grouped("general.jsonl", record, ask_general(record, rng, general, _TRAINING_QUESTIONS), rng)
        # Its own generator: whatever is asked here leaves the suites and the test questions as they are.
        apart = np.random.default_rng([seed, 3, index])
        for still, seen in enumerate(record.stills()[1:], start=1):
            asked = ask_general(record.with_image(*seen), apart, stills, _TRAINING_QUESTIONS, ("image",))
            yield from _grouped("general.jsonl", record, asked, apart, f"still-{still}-")
        asked = ask(record, rng, training, _TRAINING_QUESTIONS, partner)
        yield from _grouped("suites.jsonl", record, asked, rng)
        yield "contents.jsonl", _content_row(record, asked)
        for question in ask(record, rng, testing, _TEST_QUESTIONS, partner):
            row = _row(
                record,
                f"{question.suite}-{question.template}",
                question.media,
                [(question.question, question.answer)],
            )
            extra = {key: getattr(question, key) for key in ("suite", "template", "question", "answer")}
            yield (
                "questions.jsonl",
                {"id": row["id"], "scene_id": row["scene_id"], **extra, "messages": row["messages"]},
            )


def pair_up(records: Sequence[WorldRecord], rng: np.random.Generator) -> dict[int, int]:
    """Which scene gives the second video to which, for all scenes whose videos show motion.

    Of a few scenes drawn at random, the one that allows most questions: most pairs at random have the same answer to
    "which video shows a fall" (neither). Fly-throughs are left out: nothing in them collides, falls or goes anywhere.
    """
    sights = {index: sight for index, record in enumerate(records) if not (sight := Sight(record)).flies}
    moving = list(sights)
    pairs = {}
    for index in moving if len(moving) > 1 else ():
        drawn = [moving[i] for i in rng.choice(len(moving), min(_PARTNERS, len(moving)), replace=False)]
        candidates = [other for other in drawn if other != index] or [other for other in moving if other != index][:1]
        pairs[index] = max(candidates, key=lambda other: _shared(sights[index], sights[other], rng))
    return pairs


def _shared(one: Sight, other: Sight, rng: np.random.Generator) -> int:
    """How many different answers the two videos allow; "yes" counts twice, for two ways seldom agree."""
    both = Sight(one.record, other)
    answers = [{found.answer for found in template.find(both, rng)} for template in SUITES["cross_video"]]
    return sum(len(words) + ("yes" in words) for words in answers)


def _grouped(
    name: str, record: WorldRecord, questions: list[Question], rng: np.random.Generator, prefix: str = ""
) -> Iterator[tuple[str, dict]]:
    """Conversations of up to `TURNS` turns, each over one medium or pair of media, turns in random order."""
    by_media: dict[tuple[tuple[str, str], ...], list[Question]] = {}
    for question in questions:
        by_media.setdefault(question.media, []).append(question)
    for media, asked in by_media.items():
        turns = [(asked[i].question, asked[i].answer) for i in rng.permutation(len(asked))]
        kind = "-".join(kind for kind, _ in media)
        parts = np.array_split(np.arange(len(turns)), -(-len(turns) // TURNS))  # of even length
        for number, part in enumerate(parts):
            yield name, _row(record, f"{prefix}{kind}-{number}", media, [turns[i] for i in part])


def _row(
    record: WorldRecord, what: str, media: tuple[tuple[str, str], ...], turns: list[tuple[str, str]]
) -> dict[str, object]:
    shown: list[dict[str, str]] = [{"type": kind, kind: path} for kind, path in media]
    messages = []
    for number, (question, answer) in enumerate(turns):
        content = [*(shown if number == 0 else []), {"type": "text", "text": question}]
        messages.append({"role": "user", "content": content})
        messages.append({"role": "assistant", "content": [{"type": "text", "text": answer}]})
    row: dict[str, object] = {
        "id": f"{record.split}-{record.scene_id}-{what}",
        "scene_id": record.scene_id,
        "messages": messages,
    }
    if [kind for kind, _ in media] != ["video", "video"]:  # of two contents
        row["content"] = {"video": record.media.video, "scene": record.media.scene}
    return row


def _content_row(record: WorldRecord, asked: Sequence[Question]) -> dict[str, object]:
    pictures = [path for path, _, _ in record.stills()]
    return {
        "id": f"{record.split}-{record.scene_id}-content",
        "scene_id": record.scene_id,
        "content": {"image": pictures, "video": record.media.video, "scene": record.media.scene},
        "prompts": list(dict.fromkeys(question.question for question in asked if len(question.media) == 1)),
    }
