# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""The ten question suites, and which of a world's questions an evaluation asks."""

import json
import random
from collections import defaultdict
from itertools import zip_longest
from pathlib import Path

from polyv.world.questions import SUITES as TEMPLATES


SUITES = tuple(TEMPLATES)
"""The suites, in the order of the paper's benchmarks that they mirror."""


def parse_suites(text: str) -> list[str]:
    """Suite names from a comma-separated list, or all of them from "all".

    Raises:
        ValueError: a name is no suite.
    """
    if text == "all":
        return list(SUITES)
    names = [name.strip() for name in text.split(",")]
    unknown = [name for name in names if name not in SUITES]
    if unknown:
        raise ValueError(f'suites={text!r}: {unknown} are no suites. Expected "all" or some of: {", ".join(SUITES)}.')
    return list(dict.fromkeys(names))


def select_questions(world: Path, suites: list[str], n: int, seed: int) -> list[dict]:
    """Pick `n` questions of each suite from `world`/questions.jsonl, the templates of a suite as evenly as they allow.

    Args:
        world: folder that `make_world` wrote.
        suites: names from `SUITES`.
        n: questions a suite.
        seed: decides which. The same world and seed give the same list.

    Returns:
        Rows of questions.jsonl, suite by suite, their media paths made valid from the working folder.

    Raises:
        ValueError: the world holds fewer than `n` questions of some suite, or `n` is below 1.
    """
    if n < 1:
        raise ValueError(f"n={n}: expected at least 1 question a suite.")
    with open(world / "questions.jsonl", encoding="utf-8") as lines:
        rows = [row for row in map(json.loads, lines) if row["suite"] in suites]
    by_suite: dict[str, dict[str, list[dict]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        by_suite[row["suite"]][row["template"]].append(row)
    selected = []
    for suite in suites:
        templates = [by_suite[suite][name] for name in sorted(by_suite[suite])]
        for questions in templates:
            random.Random(seed).shuffle(questions)
        turns = [row for turn in zip_longest(*templates) for row in turn if row is not None]
        if len(turns) < n:
            raise ValueError(
                f"{world} holds {len(turns)} questions of the suite {suite}, n={n} were asked for. "
                "Ask for fewer, or use a world of more scenes."
            )
        selected += [{**row, "messages": locate_media(row["messages"], world)} for row in turns[:n]]
    return selected


def locate_media(messages: list[dict], folder: Path) -> list[dict]:
    """The messages with their media paths, which are relative to `folder`, made valid from the working folder."""

    def locate(entry: dict) -> dict:
        kind = entry["type"]
        return entry if kind == "text" else {**entry, kind: str(folder / entry[kind])}

    return [{**message, "content": [locate(entry) for entry in message["content"]]} for message in messages]
