# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""`polyv csqa fill`: puts media at hand into a dataset that only names them, for training with it oneself."""

import os
import shutil
from collections.abc import Iterator, Sequence
from itertools import chain, groupby
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from polyv.csqa.card import content_version
from polyv.csqa.dataset import GROUP, begin, file_stamp, finish, write_tables
from polyv.csqa.media import COLUMNS, FEATURES, encode
from polyv.csqa.records import Media, read_records
from polyv.world.make import alone_in


_TITLE = "# CSQA: questions across images, videos and 3D scenes\n"
_NOTE = "\n> This copy holds media of third parties (`polyv csqa fill`): it is for your own use, not for publishing.\n"


class Filled(NamedTuple):
    """What came of it: rows that are in the copy, and rows and scenes that are not, as their media are not at hand."""

    path: Path
    rows: int
    rows_without: int
    scenes_without: int


def fill(
    folder: str | os.PathLike, media: Sequence[str | os.PathLike], out: str | os.PathLike, progress: bool = True
) -> Filled:
    """Write a copy of a dataset that holds its media, of the rows whose media are at hand.

    Killed, the same call goes on.

    Args:
        folder: as `polyv csqa build` wrote it, from annotations of third parties.
        media: folders, in one of which the paths of each graph start.
        out: folder to write; it must not exist.
        progress: show a progress bar.

    Raises:
        FileExistsError: `out` exists.
        FileNotFoundError: `folder` holds no dataset, or a folder of `media` is not there.
        ValueError: a medium cannot be read, or none is at hand.
        BlockingIOError: another process is writing `out`.
    """
    folder, out, places = Path(folder), Path(out), [Path(place) for place in media]
    if out.exists():
        raise FileExistsError(f"out={out}: it exists already. Give another folder, or remove it.")
    for place in places:
        if not place.is_dir():
            raise FileNotFoundError(f"media={place}: no such folder.")
    files = sorted((folder / "data").glob("*.parquet"))
    if not files:
        raise FileNotFoundError(f"{folder}: no data/*.parquet there. Make a dataset with `polyv csqa build`.")
    partial = out.parent / f".{out.name}.partial"
    partial.mkdir(parents=True, exist_ok=True)
    with alone_in(partial, "polyv csqa fill"):
        begin(
            partial,
            {"fill": [file_stamp(file) for file in files], "media": [str(place.resolve()) for place in places]},
        )
        (partial / "data").mkdir(exist_ok=True)
        graphs = chain.from_iterable(map(read_records, sorted((folder / "graphs").glob("*.jsonl"))))
        named = {record.scene_id: record.media for record in graphs}
        for file in tqdm(files, desc="fill", unit="file", disable=not progress):
            if not (partial / "data" / file.name).exists():
                write_tables(partial / "data" / file.name, _tables(file, named, places))
        kept, before = (_count(root) for root in (partial, folder))
        if not kept[0]:
            raise ValueError(f"media={', '.join(map(str, places))}: the media of no row are there.")
        card = (folder / "README.md").read_text(encoding="utf-8").replace(_TITLE, _TITLE + _NOTE)
        card = card.replace(content_version(folder), content_version(partial))
        (partial / "README.md").write_text(card, encoding="utf-8")
        shutil.copytree(folder / "graphs", partial / "graphs", dirs_exist_ok=True)
        for extra in (path for path in folder.iterdir() if path.is_file() and path.name != "README.md"):
            shutil.copy(extra, partial / extra.name)
        finish(partial, out)
    return Filled(out, kept[0], before[0] - kept[0], before[1] - kept[1])


def _tables(file: Path, named: dict[str, Media], places: list[Path]) -> Iterator[pa.Table]:
    for batch in pq.ParquetFile(file).iter_batches(GROUP):
        rows = []
        for scene_id, of_scene in groupby(batch.to_pylist(), key=lambda row: row["scene_id"]):
            media, encoded = named[scene_id], dict[str, dict[str, Any]]()
            for row in of_scene:
                lacking = [kind for kind in row["shown"] if not row[COLUMNS[kind]]]
                homes = {kind: _home(media, kind, places) for kind in lacking}
                if None in homes.values():
                    continue
                for kind, home in homes.items():
                    if home is not None and kind not in encoded:
                        encoded[kind] = encode(kind, media, home)
                rows.append({**row, **{COLUMNS[kind]: [encoded[kind]] for kind in lacking}})
        yield pa.Table.from_pylist(rows, schema=FEATURES.arrow_schema)


def _home(media: Media, kind: str, places: list[Path]) -> Path | None:
    """The first of the folders in which a medium of a scene is."""
    path = getattr(media, kind)
    return next((place for place in places if path is not None and (place / path).exists()), None)


def _count(folder: Path) -> tuple[int, int]:
    """Rows, and scenes that these are of."""
    ids = [
        pq.read_table(file, columns=["scene_id"])["scene_id"].to_pylist()
        for file in (folder / "data").glob("*.parquet")
    ]
    return sum(map(len, ids)), len({scene for those in ids for scene in those})


__all__ = ["Filled", "fill"]
