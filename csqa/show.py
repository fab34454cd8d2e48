# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""`polyv csqa show`: a page of samples for each family, with what is shown, the answer, and what it rests on in frames."""

import io
import json
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure, SubFigure
from matplotlib.patches import Rectangle
from PIL import Image

from polyv.csqa.media import COLUMNS, video_frames
from polyv.csqa.records import Appearance, SceneRecord, read_records
from polyv.csqa.templates import FAMILIES
from polyv.files import whole


_COLUMNS = 7  # pictures a sample
_WIDTH, _HEIGHT, _DPI = 13.0, 1.75, 100  # inches, a sample; dots an inch
_INK, _QUIET, _ANSWER = "#222222", "#777777", "#0a7a3c"
_MARKS = ("#ee3377", "#0077bb", "#ee7733", "#009988")  # of the objects that an answer rests on, in their order


def show(folder: str | Path, out: str | Path, samples: int = 10, split: str = "test", seed: int = 0) -> list[Path]:
    """Draw a page for each family: samples of all of its templates in turn.

    Args:
        folder: as `polyv csqa build` wrote it.
        out: folder for the pages, FAMILY.png each.
        samples: on each page.
        split: which one to take them from.
        seed: of the choice.

    Returns:
        The pages.

    Raises:
        FileNotFoundError: the folder holds no dataset.
        ValueError: `samples` is below 1.
    """
    folder, out = Path(folder), Path(out)
    files = sorted((folder / "data").glob(f"{split}-*.parquet"))
    if not files:
        raise FileNotFoundError(f"{folder}: no data/{split}-*.parquet there. Make a dataset with `polyv csqa build`.")
    if samples < 1:
        raise ValueError(f"samples: got {samples}, expected 1 or more.")
    chosen = _choose(files, samples, np.random.default_rng(seed))
    wanted = {row["scene_id"] for rows in chosen.values() for row in rows}
    graphs = {r.scene_id: r for r in read_records(folder / "graphs" / f"{split}.jsonl") if r.scene_id in wanted}
    out.mkdir(parents=True, exist_ok=True)
    pages = []
    for family, rows in chosen.items():
        if not rows:
            continue
        figure = Figure(figsize=(_WIDTH, _HEIGHT * len(rows)), dpi=_DPI, facecolor="white")
        FigureCanvasAgg(figure)
        for row, block in zip(rows, figure.subfigures(len(rows), 1, squeeze=False)[:, 0], strict=True):
            _draw(block, row, graphs[row["scene_id"]])
        pages.append(out / f"{family}.png")
        with whole(pages[-1]) as partial:
            figure.savefig(partial, format="png")
    return pages


def _choose(files: list[Path], samples: int, rng: np.random.Generator) -> dict[str, list[dict[str, Any]]]:
    """Rows of each family, one of each of its templates in turn, whole."""
    places: dict[str, dict[str, list[tuple[Path, int]]]] = {family: {} for family in FAMILIES}
    for file in files:
        table = pq.read_table(file, columns=["family", "template"]).to_pylist()
        for number, row in enumerate(table):
            places[row["family"]].setdefault(row["template"], []).append((file, number))
    chosen = {}
    for family, templates in places.items():
        orders = {name: [rows[i] for i in rng.permutation(len(rows))] for name, rows in sorted(templates.items())}
        turns = [rows[turn] for turn in range(samples) for rows in orders.values() if turn < len(rows)]
        chosen[family] = [pq.read_table(file).slice(number, 1).to_pylist()[0] for file, number in turns[:samples]]
    return chosen


def _draw(block: SubFigure, row: dict[str, Any], record: SceneRecord) -> None:
    grid = block.add_gridspec(1, _COLUMNS, left=0.005, right=0.995, top=0.62, bottom=0.02, wspace=0.03)
    support = json.loads(row["support"])
    for column, (pixels, title, looks) in enumerate(_pictures(row, record, support["views"])):
        axis = block.add_subplot(grid[0, column])
        axis.axis("off")
        axis.set_title(title, fontsize=7, color=_QUIET, pad=2)
        axis.imshow(pixels, interpolation="lanczos")
        for number, name in enumerate(support["objects"]):
            box = (looks.get(name) or Appearance()).box
            if box is not None:
                x0, y0, x1, y1 = box
                mark = _MARKS[number % len(_MARKS)]
                axis.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, edgecolor=mark, linewidth=1.2))
    times = ", ".join(f"{start:.2f}-{end:.2f} s" for start, end in support["times"])
    needed = "" if row["needed"] in row["shown"] else f" · to be inferred, the answer is in the {row['needed']}"
    block.text(0.005, 0.93, f"{row['template']}{needed}", fontsize=7, color=_QUIET, va="center")
    block.text(0.995, 0.93, f"{row['id']}  {times}", fontsize=7, color=_QUIET, va="center", ha="right")
    question = textwrap.shorten(row["question"], 150)
    text = block.text(0.005, 0.79, question, fontsize=10, color=_INK, va="center")
    end = text.get_window_extent().transformed(block.transSubfigure.inverted()).x1
    answer = block.text(end + 0.012, 0.79, row["answer"], fontsize=10, weight="bold", color=_ANSWER, va="center")
    end = answer.get_window_extent().transformed(block.transSubfigure.inverted()).x1
    others = ", ".join(row["distractors"])
    block.text(end + 0.012, 0.79, f"not {others}" if others else "", fontsize=8, color=_QUIET, va="center")


def _pictures(
    row: dict[str, Any], record: SceneRecord, views: list[int]
) -> Iterator[tuple[np.ndarray, str, dict[str, Appearance | None]]]:
    """What the question shows, one picture after the other, at most a line of them; with how each object shows. Nothing of
    media that the dataset does not hold."""
    things = record.objects
    free = _COLUMNS
    for kind in row["shown"]:
        if not row[COLUMNS[kind]]:
            continue
        if kind == "image":
            yield _opened(row["images"][0]["bytes"]), "image", {thing.id: thing.in_image for thing in things}
            free -= 1
        elif kind == "video":
            frames = list(video_frames(io.BytesIO(row["videos"][0]["bytes"])))
            last = (len(frames) if record.times is None else len(record.times)) - 1
            for entry in np.linspace(0, last, free).round().astype(int).tolist():
                looks = {thing.id: thing.in_video[entry] for thing in things if entry < len(thing.in_video)}
                index = entry if record.times is None else round(record.times[entry] * (record.fps or 1))
                if index < len(frames):
                    yield frames[index], f"video, frame {index + 1}", looks
        else:
            pictures = [_opened(view["bytes"]) for view in row["scenes"][0]["views"]]
            for index in range(min(free, len(pictures))):
                looks = {thing.id: thing.in_views[index] for thing in things if index < len(thing.in_views)}
                yield pictures[index], f"view {index + 1}{' (asked about)' if index in views else ''}", looks


def _opened(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


__all__ = ["show"]
