# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""Controls of a study, as data: rows whose teachers see another content, or whose student does; or fewer rows.

shuffled   teachers see another row's content ("teachers"), of those that show the same kinds of media and are asked the
           same (where rows are asked nothing, of all such): what is left of a gain is no merit of what they saw, but for
           what the questions give away: of a scene in which nothing is hit, none asks what was hit
strangers  teachers see any other row's content that shows the same kinds of media: these say nothing about the row
blind      the media of a conversation are another row's, of the same kinds: what is left is what words tell
sample     a share of the rows, drawn at random; a smaller share of the same seed is part of a larger
"""

import json
import os
from collections import defaultdict
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from polyv.files import write_whole
from polyv.recipes.rows import MEDIA, RowError


Control = Literal["shuffled", "strangers", "blind", "sample"]


def write_control(
    control: Control, dataset: str | os.PathLike, out: str | os.PathLike, seed: int, share: float | str = 1.0
) -> Path:
    """Write the control of a JSONL file beside it or elsewhere, under a temporary name first.

    Args:
        control: which one.
        dataset: JSONL file of the rows.
        out: JSONL file to write; its paths are made relative to its folder.
        seed: of who gets whose, or of what is drawn.
        share: of the rows, for "sample": above 0, to 1.

    Returns:
        `out`.

    Raises:
        ValueError: `control` is none of these; of teachers, no row names a content; `share` is impossible, or would
            leave no row.
    """
    if control not in get_args(Control):
        raise ValueError(f"control={control}: expected one of {', '.join(get_args(Control))}.")
    dataset, out = Path(dataset), Path(out)
    rows = [json.loads(line) for line in dataset.read_text(encoding="utf-8").splitlines() if line.strip()]
    rng = np.random.default_rng(seed)
    made = _sample(rows, float(share), rng) if control == "sample" else _swap(rows, control, rng)
    if not made:
        cause = "no row names a content, so there is nothing to shuffle"
        if control == "sample":
            cause = f"share={share} of its {len(rows)} rows is none"
        raise RowError(f"{dataset}: {cause}.")
    base = os.path.relpath(dataset.absolute().parent, out.absolute().parent)
    write_whole(out, "".join(json.dumps(_moved(row, base), ensure_ascii=False) + "\n" for row in made))
    return out


def _sample(rows: list[dict[str, Any]], share: float, rng: np.random.Generator) -> list[dict[str, Any]]:
    if not 0 < share <= 1:
        raise ValueError(f"share={share}: expected a number above 0, at most 1.")
    chosen = rng.permutation(len(rows))[: round(share * len(rows))]
    return [rows[index] for index in sorted(chosen)]


def _swap(rows: list[dict[str, Any]], control: Control, rng: np.random.Generator) -> list[dict[str, Any]]:
    """All rows, each with what another of its likeness has; none where there is nothing to swap."""
    groups: dict[tuple, list[int]] = defaultdict(list)
    for index, row in enumerate(rows):
        if control == "blind" or row.get("content"):
            groups[_likeness(row, control)].append(index)
    donors = {index: donor for group in groups.values() for index, donor in _pair(group, rows, rng)}
    if alone := sum(index == donor for index, donor in donors.items()):
        print(f"{control}: {alone} of {len(donors)} rows are alike to none of another scene, and keep what is theirs")
    return [_swapped(row, rows[donors.get(index, index)], control) for index, row in enumerate(rows) if groups]


def _likeness(row: dict[str, Any], control: Control) -> tuple:
    shown = _media(row)
    kinds = tuple(entry["type"] for entry in shown)
    content = tuple(sorted(row.get("content") or ()))
    return (kinds, content, tuple(row.get("templates", ()))) if control == "shuffled" else (kinds, content)


def _media(row: dict[str, Any]) -> list[dict[str, Any]]:
    """The entries of a row's messages that are media."""
    contents = [message["content"] for message in row.get("messages") or [] if isinstance(message["content"], list)]
    return [entry for content in contents for entry in content if entry["type"] in MEDIA]


def _pair(group: list[int], rows: list[dict[str, Any]], rng: np.random.Generator) -> list[tuple[int, int]]:
    """Each of a group with the next in a random order, skipping those of the same scene where another is left."""
    order = rng.permutation(group).tolist()
    pairs = []
    for place, index in enumerate(order):
        others = (order[(place + step) % len(order)] for step in range(1, len(order)))
        scene = rows[index].get("scene_id")
        donor = next((other for other in others if scene is None or rows[other].get("scene_id") != scene), index)
        pairs.append((index, donor))
    return pairs


def _swapped(row: dict[str, Any], donor: dict[str, Any], control: Control) -> dict[str, Any]:
    if control != "blind":
        return {**row, "teachers": donor.get("teachers") or donor["content"]} if row.get("content") else row
    media = iter(_media(donor))
    messages = [
        {
            **message,
            "content": [next(media) if entry["type"] in MEDIA else entry for entry in message["content"]]
            if isinstance(message["content"], list)
            else message["content"],
        }
        for message in row.get("messages") or []
    ]
    return {**row, "messages": messages}


def _moved(row: dict[str, Any], base: str) -> dict[str, Any]:
    """The row with its paths, relative to one folder, relative to another."""

    def move(path: Any) -> Any:
        return [move(each) for each in path] if isinstance(path, list) else os.path.join(base, path)

    moved = dict(row)
    for key in ("content", "teachers"):
        if row.get(key):
            moved[key] = {kind: move(path) for kind, path in row[key].items()}
    if row.get("messages"):
        moved["messages"] = [
            {
                **message,
                "content": [
                    {**entry, entry["type"]: move(entry[entry["type"]])} if entry["type"] in MEDIA else entry
                    for entry in message["content"]
                ]
                if isinstance(message["content"], list)
                else message["content"],
            }
            for message in row["messages"]
        ]
    return moved


__all__ = ["Control", "write_control"]
