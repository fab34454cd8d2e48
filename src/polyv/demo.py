# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""`polyv demo`: an unseen scene as image, video and posed RGB-D views, questions about it, and a picture of it all."""

import json
import secrets
import textwrap
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
from matplotlib.figure import Figure
from PIL import Image
from transformers.utils import logging

from polyv.ask import answer, load
from polyv.evaluation.metrics import normalise
from polyv.evaluation.suites import locate_media
from polyv.processing.posed_views import PosedViews
from polyv.world.make import make_world


KINDS = ("image", "video", "scene")
QUESTIONS_PER_KIND = 4


class Asked(NamedTuple):
    """One question with the model's answer and the true one; `kind` is the medium it was asked about."""

    kind: str
    question: str
    answer: str
    truth: str

    @property
    def right(self) -> bool:
        return normalise(self.answer) == normalise(self.truth)


def run(model: str, seed: int | None, out: Path) -> Path:
    """Make a scene of the test split, ask `model` a dozen questions about it, print them and draw them.

    Args:
        model: folder or Hub name of a checkpoint.
        seed: the scene's seed; None takes a random one and prints it.
        out: folder; the scene and the picture go into its subfolder `seed-<seed>`.

    Returns:
        The picture's path, which is also the last line printed.
    """
    seed = secrets.randbelow(10**6) if seed is None else seed
    folder = out / f"seed-{seed}"
    print(f"Making an unseen scene (test split, seed {seed}) in {folder} ...")
    make_world(folder, scenes=1, seed=seed, size=112, split="test", workers=1, progress=False)
    scene = folder / "scenes" / "000000"
    rows = choose_questions(folder / "questions.jsonl")
    print(f"Asking {model} ...\n")
    logging.disable_progress_bar()
    loaded, processor = load(model)
    asked = []
    for kind in KINDS:
        of_kind = [row for row in rows if medium(row) == kind]
        conversations = [locate_media(row["messages"][:1], folder) for row in of_kind]
        answers = answer(loaded, processor, conversations, max_new_tokens=16)
        asked += [
            Asked(kind, row["question"], text, row["answer"]) for row, text in zip(of_kind, answers, strict=True)
        ]
    print(table(asked))
    print(f"""
{sum(one.right for one in asked)} of {len(asked)} right. Ask your own:
  polyv ask --image {scene / "image.png"} "{asked[0].question}"
  polyv ask --video your_clip.mp4 "..."      polyv ask --scene your_scan/ "..."
It learned from scenes like these only: expect nothing of photographs. Train on your own data: see README.md.
""")
    picture = folder / "demo.png"
    draw(scene, asked, picture)
    print(picture)
    return picture


def medium(row: dict) -> str:
    """What a question is about: "image", "video" or "scene"; "" where it takes several media."""
    kinds = [entry["type"] for entry in row["messages"][0]["content"] if entry["type"] != "text"]
    return kinds[0] if len(kinds) == 1 else ""


def choose_questions(questions: Path) -> list[dict]:
    """Four questions about each of image, video and scene, from as many suites and templates as there are."""
    with open(questions, encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    chosen = []
    for kind in KINDS:
        templates: dict[tuple[str, str], list[dict]] = {}
        for row in rows:
            if medium(row) == kind:
                templates.setdefault((row["suite"], row["template"]), []).append(row)
        turns = [row for turn in zip_longest(*templates.values()) for row in turn if row is not None]
        chosen += turns[:QUESTIONS_PER_KIND]
    return chosen


def table(asked: list[Asked]) -> str:
    """Question, answer and truth as aligned text, one line a question, a mark where the answer is right."""
    width = max(len(one.question) for one in asked)
    lines = [f"{'':7} {'question':<{width}}   {'answer':<14} {'truth':<14}"]
    for one in asked:
        mark = "✓" if one.right else "✗"
        lines.append(f"{one.kind:<7} {one.question:<{width}} {mark} {one.answer:<14} {one.truth:<14}")
    return "\n".join(lines)


def draw(scene: Path, asked: list[Asked], picture: Path) -> None:
    """Draw one row a medium: what the model saw on the left, questions and answers on the right."""
    shown = {
        "image": [np.asarray(Image.open(scene / "image.png").convert("RGB"))],
        "video": _spread(_frames(scene / "video.mp4"), 6),
        "scene": _spread(list(PosedViews.load(scene / "scene").images), 6),
    }
    titles = {"image": "Image", "video": "Video", "scene": "3D scene (posed RGB-D views)"}
    figure = Figure(figsize=(13, 8.5), layout="constrained", facecolor="white")
    for part, kind in zip(figure.subfigures(3, 1), KINDS, strict=True):
        left, right = part.subfigures(1, 2, width_ratios=(1, 1.35))
        left.suptitle(titles[kind], fontsize=12, fontweight="bold", x=0.02, ha="left")
        columns = 1 if kind == "image" else 3
        rows = -(-len(shown[kind]) // columns)
        for axes, pixels in zip(left.subplots(rows, columns, squeeze=False).flat, shown[kind], strict=False):
            axes.imshow(pixels)
        for axes in left.axes:
            axes.axis("off")
        _write(right, [one for one in asked if one.kind == kind])
    figure.savefig(picture, dpi=110)


def _write(part, asked: list[Asked]) -> None:
    for line, one in enumerate(asked):
        top = 0.88 - line * 0.24
        colour = "#1a7f37" if one.right else "#b42318"
        truth = "" if one.right else f"   (truth: {one.truth})"
        part.text(0.0, top, textwrap.shorten(one.question, 90), fontsize=11, color="#222222", va="center")
        text = f"{'✓' if one.right else '✗'} {one.answer}{truth}"
        part.text(0.02, top - 0.09, text, fontsize=11, color=colour, va="center", fontweight="bold")


def _spread(pictures: list, count: int) -> list:
    """At most `count` of `pictures`, evenly spread, first and last included."""
    return [pictures[i] for i in np.linspace(0, len(pictures) - 1, min(count, len(pictures))).round().astype(int)]


def _frames(video: Path) -> list[np.ndarray]:
    with av.open(str(video)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
