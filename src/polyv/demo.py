# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""`polyv demo`: an unseen scene as image, video and posed RGB-D views, questions about it, and a picture of it all."""

import json
import random
import secrets
import textwrap
from collections.abc import Iterable
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple, cast

import av
import numpy as np
from matplotlib.figure import Figure
from PIL import Image
from transformers.utils import logging

from polyv.ask import answer, load
from polyv.evaluation import disagreements
from polyv.evaluation.metrics import normalise
from polyv.evaluation.suites import locate_media
from polyv.files import whole
from polyv.processing.posed_views import PosedViews
from polyv.world.make import make_scene, make_world


KINDS = ("image", "video", "scene")
QUESTIONS = 12


class Asked(NamedTuple):
    """One question with the model's answer and the true one; `kind` is the medium it was asked about."""

    kind: str
    question: str
    answer: str
    truth: str

    @property
    def right(self) -> bool:
        return normalise(self.answer) == normalise(self.truth)

    @property
    def mark(self) -> str:
        return "✓" if self.right else "✗"


class Difference(NamedTuple):
    """A question that two models answered otherwise.

    Attributes:
        study: whose arms they are.
        question: its text.
        asked: of each model, with its name as `kind`, what it answered.
        media: what the question is about, as in a message.
        score: how often which was right.
    """

    study: str
    question: str
    asked: list[Asked]
    media: list[dict[str, str]]
    score: str


def run(model: str, seed: int | None, out: Path) -> Path:
    """Make a scene of the test split, ask `model` a dozen questions about it, print them and draw them, and a question of
    the ablation on which training with experts and teachers made a difference.

    Args:
        model: folder or Hub name of a checkpoint.
        seed: the scene's seed; None takes a random one and prints it.
        out: folder; the scene and the picture go into its subfolder `seed-<seed>`.

    Returns:
        The picture's path, which is also the last line printed.
    """
    seed = secrets.randbelow(10**6) if seed is None else seed
    folder = out / f"seed-{seed}"
    logging.disable_progress_bar()
    loaded, processor = load(model)
    print(f"Making an unseen scene (test split, seed {seed}) in {folder} ...")
    make_world(folder, scenes=1, seed=seed, size=112, split="test", workers=1, progress=False)
    scene = folder / "scenes" / "000000"
    rows = choose_questions(folder / "questions.jsonl")
    print(f"Asking {model} ...\n")
    asked = []
    for kind in KINDS:
        of_kind = [row for row in rows if medium(row) == kind]
        if not of_kind:  # a scene in which nothing can be asked of one of the media without doubt
            continue
        conversations = [locate_media(row["messages"][:1], folder) for row in of_kind]
        answers = answer(loaded, processor, conversations, max_new_tokens=16)
        asked += [
            Asked(kind, row["question"], " ".join(text.split()), row["answer"])
            for row, text in zip(of_kind, answers, strict=True)
        ]
    print(table(asked))
    print(f"""
{sum(one.right for one in asked)} of {len(asked)} right. Ask your own:
  polyv ask --image {scene / "image.png"} "{asked[0].question}"
  polyv ask --video your_clip.mp4 "..."      polyv ask --scene your_scan/ "..."
It learned from scenes like these only: expect nothing of photographs. Train on your own data: see README.md.
""")
    difference = pick_difference(
        json.loads(disagreements.FILE.read_text(encoding="utf-8")), seed, folder / "difference"
    )
    print(describe(difference))
    picture = folder / "demo.png"
    draw(scene, asked, picture, difference)
    print(picture)
    return picture


def pick_difference(found: dict[str, Any], seed: int, folder: Path) -> Difference:
    """Draw one of the questions that two trained models answered otherwise, and make its scenes again in `folder`.

    Args:
        found: what `polyv.evaluation.disagreements` wrote.
        seed: of the draw.
        folder: made if needed; scenes that it holds are kept.
    """
    row = random.Random(seed).choice(found["questions"])
    for part in row["media"]:
        place = folder / part[part["type"]]
        name = place.relative_to(folder / "scenes").parts[0]
        if not (folder / "scenes" / name).exists():
            make_scene(int(name), folder, **found["world"])
    one, other = found["arms"]
    right = found["counts"]
    score = (
        f"Of all {sum(right.values()):,} test questions both are right on {right['both']:,}, {one} alone on {right[one]:,}, "
        f"{other} alone on {right[other]:,}, neither on {right['neither']:,}."
    )
    asked = [
        Asked(arm, row["question"], given, row["answer"])
        for arm, given in zip((one, other), row["given"], strict=True)
    ]
    [message] = locate_media([{"content": row["media"]}], folder)
    return Difference(f"{found['study']}, seed {found['seed']}", row["question"], asked, message["content"], score)


def describe(difference: Difference) -> str:
    """Question, both answers, the truth, and how often which model was right, as text."""
    one, other = (asked.kind for asked in difference.asked)
    media = " and ".join(part[part["type"]] for part in difference.media)
    answers = "      ".join(f"{asked.kind} {asked.mark} {asked.answer}" for asked in difference.asked)
    return f"""\
Do experts and teachers pay? "{one}" was tuned without, "{other}" with both, on the same data for as many steps ({difference.study}).
A question that they answer otherwise, drawn at random, about {media}:
  {textwrap.fill(difference.question, 100, subsequent_indent="  ")}
  {answers}      (truth: {difference.asked[0].truth})
{difference.score}
"""


def medium(row: dict) -> str:
    """What a question is about: "image", "video" or "scene"; "" where it takes several media."""
    kinds = [entry["type"] for entry in row["messages"][0]["content"] if entry["type"] != "text"]
    return kinds[0] if len(kinds) == 1 else ""


def choose_questions(questions: Path) -> list[dict]:
    """A dozen questions, as many about each of image, video and scene as can be, from many suites and templates."""
    with open(questions, encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    by_kind = []
    for kind in KINDS:
        suites: dict[str, dict[str, dict]] = {}
        for row in rows:
            if medium(row) == kind:
                suites.setdefault(row["suite"], {}).setdefault(row["template"], row)
        # One of each suite, then a second of each: a suite of many templates must not take all the places.
        by_kind.append(_in_turn(templates.values() for templates in suites.values()))
    return _in_turn(by_kind)[:QUESTIONS]


def _in_turn(groups: Iterable[Iterable[dict]]) -> list[dict]:
    """The first of each group, then the second of each, until all are used up."""
    return [row for turn in zip_longest(*groups) for row in turn if row is not None]


def table(asked: list[Asked]) -> str:
    """Question, answer and truth as aligned text, with a mark: ✓ right, ✗ wrong. Long questions take several lines."""
    width = min(max(len(one.question) for one in asked), 68)
    lines = [f"{'':7} {'question':<{width}}   {'answer':<12} truth"]
    for one in asked:
        first, *rest = textwrap.wrap(one.question, width)
        lines.append(f"{one.kind:<7} {first:<{width}} {one.mark} {one.answer:<12} {one.truth}")
        lines += [f"{'':7} {line}" for line in rest]
    return "\n".join(lines)


def draw(scene: Path, asked: list[Asked], picture: Path, difference: Difference) -> None:
    """Draw one row a medium: what the model saw on the left, questions and answers on the right; and below, the question
    that two models answered otherwise."""
    figure = Figure(figsize=(11.5, 11.2), layout="constrained", facecolor="white")
    *parts, last = cast(Any, figure.subfigures(4, 1))
    names = {"image": "image.png", "video": "video.mp4", "scene": "scene"}
    for part, kind in zip(parts, KINDS, strict=True):
        left, right = part.subfigures(1, 2, width_ratios=(4.2, 7.3))
        _show(left, [{"type": kind, kind: str(scene / names[kind])}])
        _write(right, [one for one in asked if one.kind == kind])
    left, right = last.subfigures(1, 2, width_ratios=(4.2, 7.3))
    _show(left, difference.media)
    arms = " and ".join(one.kind for one in difference.asked)
    right.text(0.0, 0.98, f"What {arms} answer otherwise", fontsize=12, fontweight="bold", va="top")
    question = textwrap.fill(difference.question, 88)
    right.text(0.0, 0.84, question, fontsize=10, color="#222222", va="top", linespacing=1.1)
    for line, one in enumerate(difference.asked):
        _write_answer(right, 0.75 - 0.07 * question.count("\n") - 0.1 * line, one, f"{one.kind}: ")
    right.text(0.0, 0.4, textwrap.fill(difference.score, 88), fontsize=10, color="#222222", va="top")
    with whole(picture) as partial:
        figure.savefig(partial, format="png", dpi=110)


def _show(part, media: list[dict[str, str]]) -> None:
    """The pictures of one medium, or of several of a kind, under a title."""
    kind = media[0]["type"]
    seen = [_pictures(entry) for entry in media]
    title = {
        "image": "Image",
        "video": f"Video, {len(seen[0])} frames",
        "scene": f"3D scene, {len(seen[0])} posed RGB-D views",
    }
    part.suptitle(
        ", and ".join([title[kind], *["another"] * (len(media) - 1)]),
        fontsize=12,
        fontweight="bold",
        x=0.02,
        ha="left",
    )
    columns = len(seen) if kind == "image" else 3
    shown = [picture for pictures in seen for picture in _spread(pictures, 6 // len(seen))]
    grid = part.subplots(-(-len(shown) // columns), columns, squeeze=False)
    for axes, pixels in zip(grid.flat, shown, strict=False):
        axes.imshow(pixels)
    for axes in grid.flat:
        axes.set_anchor("W")
        axes.axis("off")


def _pictures(entry: dict[str, str]) -> list[np.ndarray]:
    path = Path(entry[entry["type"]])
    if entry["type"] == "video":
        return _frames(path)
    return list(PosedViews.load(path).images) if path.is_dir() else [np.asarray(Image.open(path).convert("RGB"))]


def _write(part, asked: list[Asked]) -> None:
    for line, one in enumerate(asked):
        top = 0.94 - line * 0.96 / max(len(asked), 4)
        question = textwrap.fill(one.question, 88)
        part.text(0.0, top, question, fontsize=10, color="#222222", va="top", linespacing=1.1)
        _write_answer(part, top - 0.07 * (1 + question.count("\n")), one)


def _write_answer(part, top: float, one: Asked, name: str = "") -> None:
    truth = "" if one.right else f"   (truth: {one.truth})"
    colour = "#1a7f37" if one.right else "#b42318"
    part.text(
        0.02, top, f"{name}{one.mark} {one.answer}{truth}", fontsize=11, color=colour, va="top", fontweight="bold"
    )


def _spread(pictures: list, count: int) -> list:
    """At most `count` of `pictures`, evenly spread, first and last included."""
    return [pictures[i] for i in np.linspace(0, len(pictures) - 1, min(count, len(pictures))).round().astype(int)]


def _frames(video: Path) -> list[np.ndarray]:
    with av.open(str(video)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
