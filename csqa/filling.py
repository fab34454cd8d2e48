# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""`polyv csqa fill`: puts media at hand into a dataset that only names them, for training with it oneself."""

import os
import shutil
from pathlib import Path

import pyarrow.parquet as pq

from polyv.csqa.card import content_version
from polyv.csqa.dataset import write_shards
from polyv.csqa.media import COLUMNS
from polyv.csqa.records import SPLITS, read_records


_NOTE = "\n> This copy holds media of third parties (`polyv csqa fill`): it is for your own use, not for publishing.\n"


def fill(folder: str | os.PathLike, media: str | os.PathLike, out: str | os.PathLike, progress: bool = True) -> Path:
    """Write a copy of a dataset that holds its media.

    Args:
        folder: as `polyv csqa build` wrote it, from annotations of third parties.
        media: the folder that the paths in its graphs start at.
        out: folder to write; it must not exist.
        progress: show progress bars.

    Raises:
        FileExistsError: `out` exists.
        FileNotFoundError: `folder` holds no dataset, or a medium is not there.
        ValueError: a medium cannot be read.
    """
    folder, media, out = Path(folder), Path(media), Path(out)
    if out.exists():
        raise FileExistsError(f"out={out}: it exists already. Give another folder, or remove it.")
    if not media.is_dir():
        raise FileNotFoundError(f"media={media}: no such folder.")
    parts = {split: sorted((folder / "data").glob(f"{split}-*.parquet")) for split in SPLITS}
    if not any(parts.values()):
        raise FileNotFoundError(f"{folder}: no data/*.parquet there. Make a dataset with `polyv csqa build`.")
    partial = out.parent / f".{out.name}.partial"
    shutil.copytree(folder, partial, ignore=shutil.ignore_patterns("*.parquet"), dirs_exist_ok=True)
    for split, files in parts.items():
        if files:
            names = [name for name in pq.read_schema(files[0]).names if name not in COLUMNS.values()]
            rows = [row for file in files for row in pq.read_table(file, columns=names).to_pylist()]
            graphs = folder / "graphs" / f"{split}.jsonl"
            folders = {record.scene_id: media for record in read_records(graphs)}
            write_shards(partial, split, rows, graphs, folders, progress)
    title = "# CSQA: questions across images, videos and 3D scenes\n"
    card = (folder / "README.md").read_text(encoding="utf-8").replace(title, title + _NOTE)
    card = card.replace(content_version(folder), content_version(partial))
    (partial / "README.md").write_text(card, encoding="utf-8")
    partial.rename(out)
    return out


__all__ = ["fill"]
