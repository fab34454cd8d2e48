# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""`polyv world show`: a contact sheet of scenes as image, video and posed views, with questions and answers."""

import json
import textwrap
from collections.abc import Sequence
from pathlib import Path

import av
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure, SubFigure
from matplotlib.gridspec import SubplotSpec
from PIL import Image


_FRAMES = 8  # shown of a video
_VIEWS = 8  # shown of a scene at most: two rows of four
_QUESTIONS = 2  # shown of a suite
_WRAP = 92  # characters
_WIDTH, _HEIGHT, _DPI = 18.0, 3.9, 110  # inches, a scene; dots an inch
_INK, _QUIET, _ANSWER = "#222222", "#777777", "#0a7a3c"


def contact_sheet(folder: str | Path, out: str | Path, scenes: int | Sequence[str] = 4) -> Path:
    """Draw scenes of a split with their captions and some questions of each suite.

    Args:
        folder: what `polyv world make` wrote.
        out: the PNG to write.
        scenes: how many, spread over the split, or their ids ("000007").

    Returns:
        `out` as a path.

    Raises:
        FileNotFoundError: `folder` lacks questions.jsonl, captions.jsonl or a scene asked for.
        ValueError: `scenes` asks for none.
    """
    folder, out = Path(folder), Path(out)
    questions, captions = (_by_scene(folder / name) for name in ("questions.jsonl", "captions.jsonl"))
    ids = _pick(sorted(captions), scenes)
    figure = Figure(figsize=(_WIDTH, _HEIGHT * len(ids)), dpi=_DPI, facecolor="white")
    FigureCanvasAgg(figure)
    blocks = figure.subfigures(len(ids), 1, squeeze=False)
    for number, (scene, block) in enumerate(zip(ids, blocks[:, 0], strict=True)):
        _draw_scene(block, folder, scene, captions.get(scene, []), questions.get(scene, []), number)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, format="png")
    return out


def _by_scene(path: Path) -> dict[str, list[dict]]:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: not there. `polyv world make` writes it once all scenes are rendered.")
    rows: dict[str, list[dict]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        rows.setdefault(row["scene_id"], []).append(row)
    return rows


def _pick(there: list[str], scenes: int | Sequence[str]) -> list[str]:
    if isinstance(scenes, int):
        if scenes < 1:
            raise ValueError(f"scenes: got {scenes}, expected 1 or more.")
        return [there[i] for i in np.linspace(0, len(there) - 1, min(scenes, len(there))).astype(int)]
    if not scenes:
        raise ValueError("scenes: got no id, expected at least one, or a number of scenes.")
    if missing := [scene for scene in scenes if scene not in there]:
        raise FileNotFoundError(
            f"scenes: no {', '.join(missing)} in the folder, which holds {there[0]} to {there[-1]}."
        )
    return list(scenes)


def _draw_scene(
    block: SubFigure, folder: Path, scene: str, captions: list[dict], questions: list[dict], number: int
) -> None:
    files = folder / "scenes" / scene
    pictures, text = block.subfigures(1, 2, squeeze=False)[0]
    grid = pictures.add_gridspec(
        3, 8, left=0.02, right=0.97, top=0.84, bottom=0.02, wspace=0.05, hspace=0.14, height_ratios=(1, 1, 1.02)
    )
    _show(pictures, grid[:2, :2], files / "image.png", "image")
    _show(pictures, grid[:2, 2:4], files / "moved.png", "second image")
    views = sorted((files / "scene" / "color").iterdir(), key=lambda path: int(path.stem))[:_VIEWS]
    for i, view in enumerate(views):
        _show(pictures, grid[i // 4, 4 + i % 4], view, f"scene, view {i + 1}" if i == 0 else f"view {i + 1}")
    frames = _frames(files / "video.mp4")
    for column, i in enumerate(np.linspace(0, len(frames) - 1, _FRAMES).round().astype(int)):
        _show(pictures, grid[2, column], frames[i], f"video, frame {i + 1}" if i == 0 else f"frame {i + 1}")
    pictures.text(0.02, 0.96, f"Scene {scene}", fontsize=11, weight="bold", color=_INK, va="center")
    if captions:
        caption = captions[0]["messages"][1]["content"][0]["text"]
        wrapped = textwrap.fill(caption, _WRAP)
        pictures.text(0.17, 0.985, wrapped, fontsize=8, color=_INK, va="top", style="italic")
    _write_questions(text, _choose(questions, number))


def _show(figure: SubFigure, cell: SubplotSpec, picture: Path | np.ndarray, title: str) -> None:
    axis = figure.add_subplot(cell)
    axis.axis("off")
    axis.set_title(title, fontsize=7, color=_QUIET, pad=2)
    pixels = np.asarray(Image.open(picture).convert("RGB")) if isinstance(picture, Path) else picture
    axis.imshow(pixels, interpolation="lanczos")


def _choose(questions: list[dict], number: int) -> list[dict]:
    """A few questions of each suite, other templates for each scene of the sheet."""
    suites: dict[str, list[dict]] = {}
    for row in questions:
        suites.setdefault(row["suite"], []).append(row)
    return [
        row
        for rows in suites.values()
        for row in (rows[(number * _QUESTIONS + i) % len(rows)] for i in range(min(_QUESTIONS, len(rows))))
    ]


def _write_questions(text: SubFigure, questions: list[dict]) -> None:
    """One line a question, a little longer ones in two, the answer right behind it."""
    wrapped = [textwrap.wrap(row["question"] + _note(row), _WRAP) for row in questions]
    step = 0.92 / max(sum(len(lines) for lines in wrapped), 20)
    y, suite = 0.95, None
    for row, lines in zip(questions, wrapped, strict=True):
        if row["suite"] != suite:
            suite = row["suite"]
            text.text(0.0, y, suite.replace("_", " "), fontsize=8, weight="bold", color=_QUIET)
        for line in lines:
            text.text(0.125, y, line, fontsize=8.5, color=_INK)
            y -= step
        text.text(0.9, y + step, row["answer"], fontsize=9, weight="bold", color=_ANSWER)


def _note(row: dict) -> str:
    """Names the second video of a question about two, which stands elsewhere on the disk."""
    videos = [part["video"] for part in row["messages"][0]["content"] if part["type"] == "video"]
    return f" (second: scene {Path(videos[1]).parent.name})" if len(videos) > 1 else ""


def _frames(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
