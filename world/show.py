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

from polyv.files import whole


_VIEWS = 6  # shown of a scene at most: two rows of three
_FRAMES = 7  # shown of a video: one a column
_LINES = 20  # of questions beside a scene
_WRAP, _CAPTION_WRAP = 86, 106  # characters a line
_MOTION = ("moved_colour", "moves_first", "direction", "hit_what")  # templates asked only of what moves
_WIDTH, _HEIGHT, _DPI = 13.6, 3.8, 110  # inches, a scene; dots an inch
_INK, _QUIET, _ANSWER = "#222222", "#777777", "#0a7a3c"


def contact_sheet(folder: str | Path, out: str | Path, scenes: int | Sequence[str] = 4) -> Path:
    """Draw scenes of a split with a caption and some questions of each suite, as many as there is room for.

    Args:
        folder: what `polyv world make` wrote.
        out: the PNG to write.
        scenes: how many, spread over the split and as near as can be half of them with motion, or their ids
            ("000007").

    Returns:
        `out` as a path.

    Raises:
        FileNotFoundError: `folder` lacks questions.jsonl, captions.jsonl or a scene asked for.
        ValueError: `scenes` asks for none.
    """
    folder, out = Path(folder), Path(out)
    questions, captions = (_by_scene(folder / name) for name in ("questions.jsonl", "captions.jsonl"))
    ids = _pick(sorted(captions), scenes, moving={scene for scene, rows in questions.items() if _shows_motion(rows)})
    figure = Figure(figsize=(_WIDTH, _HEIGHT * len(ids)), dpi=_DPI, facecolor="white")
    FigureCanvasAgg(figure)
    blocks = figure.subfigures(len(ids), 1, squeeze=False)
    for number, (scene, block) in enumerate(zip(ids, blocks[:, 0], strict=True)):
        _draw_scene(block, folder, scene, captions.get(scene, []), questions.get(scene, []), number)
    with whole(out) as partial:
        figure.savefig(partial, format="png")
    return out


def _by_scene(path: Path) -> dict[str, list[dict]]:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: not there. `polyv world make` writes it once all scenes are rendered.")
    rows: dict[str, list[dict]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        rows.setdefault(row["scene_id"], []).append(row)
    return rows


def _shows_motion(questions: list[dict]) -> bool:
    return any(row["suite"] == "general_video" and row["template"] in _MOTION for row in questions)


def _pick(there: list[str], scenes: int | Sequence[str], moving: set[str]) -> list[str]:
    if isinstance(scenes, int):
        if scenes < 1:
            raise ValueError(f"scenes: got {scenes}, expected 1 or more.")
        move, rest = ([scene for scene in there if (scene in moving) is kind] for kind in (True, False))
        still = min(max(scenes // 2, scenes - len(move)), len(rest))
        return sorted(_spread(move, scenes - still) + _spread(rest, still))
    if not scenes:
        raise ValueError("scenes: got no id, expected at least one, or a number of scenes.")
    if missing := [scene for scene in scenes if scene not in there]:
        raise FileNotFoundError(
            f"scenes: no {', '.join(missing)} in the folder, which holds {there[0]} to {there[-1]}."
        )
    return list(scenes)


def _spread(scenes: list[str], count: int) -> list[str]:
    count = min(count, len(scenes))
    return [scenes[(2 * i + 1) * len(scenes) // (2 * count)] for i in range(count)]


def _draw_scene(
    block: SubFigure, folder: Path, scene: str, captions: list[dict], questions: list[dict], number: int
) -> None:
    files = folder / "scenes" / scene
    pictures, text = block.subfigures(1, 2, squeeze=False, width_ratios=(7.05, 6.55))[0]
    grid = pictures.add_gridspec(3, _FRAMES, left=0.015, right=0.985, top=0.865, bottom=0.01, wspace=0.03, hspace=0.15)
    _show(pictures, grid[:2, :2], files / "image.png", "image")
    _show(pictures, grid[:2, 2:4], files / "moved.png", "second image")
    views = sorted((files / "scene" / "color").iterdir(), key=lambda path: int(path.stem))[:_VIEWS]
    for i, view in enumerate(views):
        _show(pictures, grid[i // 3, 4 + i % 3], view, f"scene, view {i + 1}" if i == 0 else f"view {i + 1}")
    frames = _frames(files / "video.mp4")
    for column, i in enumerate(np.linspace(0, len(frames) - 1, _FRAMES).round().astype(int)):
        _show(pictures, grid[2, column], frames[i], f"video, frame {i + 1}" if i == 0 else f"frame {i + 1}")
    pictures.text(0.015, 0.955, f"Scene {scene}", fontsize=11, weight="bold", color=_INK, va="center")
    if captions:
        caption = captions[0]["messages"][1]["content"][0]["text"]
        wrapped = textwrap.fill(caption, _CAPTION_WRAP)
        pictures.text(0.205, 0.955, wrapped, fontsize=7, color=_INK, va="center", style="italic")
    _write_questions(text, _choose(questions, number))


def _show(figure: SubFigure, cell: SubplotSpec, picture: Path | np.ndarray, title: str) -> None:
    axis = figure.add_subplot(cell)
    axis.axis("off")
    axis.set_title(title, fontsize=7, color=_QUIET, pad=2)
    pixels = np.asarray(Image.open(picture).convert("RGB")) if isinstance(picture, Path) else picture
    axis.imshow(pixels, interpolation="lanczos")


def _choose(questions: list[dict], number: int) -> list[dict]:
    """One question of each suite in turn until the lines are full, other templates for each scene of the sheet."""
    suites: dict[str, list[dict]] = {}
    for row in questions:
        suites.setdefault(row["suite"], []).append(row)
    chosen: dict[str, list[dict]] = {suite: [] for suite in suites}
    lines = 0
    for turn in range(len(questions)):
        for suite, rows in suites.items():
            if turn < len(rows):
                row = rows[(2 * number + turn) % len(rows)]
                if lines + len(_wrap(row)) <= _LINES:
                    chosen[suite].append(row)
                    lines += len(_wrap(row))
    return [row for rows in chosen.values() for row in rows]


def _wrap(row: dict) -> list[str]:
    """The lines of a question; the last one has room for the answer."""
    return [line.rstrip("_") for line in textwrap.wrap(row["question"] + _note(row) + "_" * 10, _WRAP)]


def _write_questions(text: SubFigure, questions: list[dict]) -> None:
    """One line a question, two for a long one, the answer right behind it."""
    y, suite = 0.94, None
    for row in questions:
        if row["suite"] != suite:
            suite = row["suite"]
            text.text(0.01, y, suite.replace("_", " "), fontsize=8, weight="bold", color=_QUIET)
        for line in _wrap(row):
            words = text.text(0.18, y, line, fontsize=8.5, color=_INK)
            y -= 0.93 / _LINES
        end = words.get_window_extent().transformed(text.transSubfigure.inverted()).x1
        text.text(end + 0.012, y + 0.93 / _LINES, row["answer"], fontsize=8.5, weight="bold", color=_ANSWER)


def _note(row: dict) -> str:
    """Names the second video of a question about two, which stands elsewhere on the disk."""
    videos = [part["video"] for part in row["messages"][0]["content"] if part["type"] == "video"]
    return f" (second: scene {Path(videos[1]).parent.name})" if len(videos) > 1 else ""


def _frames(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
