# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""Conversations as training data: rows of JSONL files or of datasets on the Hub, checked and mixed."""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import (
    Dataset,
    Features,
    Image,
    List,
    Value,
    Video,
    concatenate_datasets,
    interleave_datasets,
    load_dataset,
    load_from_disk,
)
from datasets.config import HF_DATASETS_CACHE
from datasets.exceptions import DatasetGenerationError, DatasetsError

from polyv.recipes.rows import MEDIA, TEXTS, TURNS, RowError, check_row


# Large: those of a column may be more than 2 GiB together.
COLUMNS = Features({key: Value("large_string") for key in (*TEXTS, "source")} | {"prompts": List(Value("string"))})
"""What all rows have, from whatever source; those of datasets have their media in columns beside it."""


def iter_rows(file: str | Path) -> Iterator[tuple[int, dict[str, Any] | ValueError]]:
    """Each row of a JSONL file, or of a JSON file that is one list, with its number, from 1: as `read_rows` has it, or
    what is wrong with it, not raised."""
    file = Path(file)
    for number, read in _parse(file):
        try:
            if isinstance(read, ValueError):
                raise read
            row = check_row(read, file.parent.absolute())  # saved as a dataset, it may be read from elsewhere
        except ValueError as error:
            yield number, error
        else:
            yield number, {**row, "source": f"{file}, row {number}"}


def _parse(file: Path) -> Iterator[tuple[int, Any]]:
    """The JSON of each row, or what is wrong with its line, and where."""
    with file.open("rb") as lines:
        if file.suffix == ".json" and lines.read(64).lstrip().startswith(b"["):  # as LLaVA has them
            lines.seek(0)
            try:
                yield from enumerate(json.load(lines), start=1)
            except ValueError as error:
                raise RowError(f"{file}: it is not JSON: {error}.") from error
            return
        lines.seek(0)
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                yield number, json.loads(line.rstrip())
            except json.JSONDecodeError as error:
                hint = "" if line.lstrip()[:1] == b"{" else "; expected one object a line"
                yield (
                    number,
                    ValueError(f"it is not JSON: {error.msg}, at character {error.pos + 1} of the line{hint}"),
                )
            except ValueError as error:
                yield number, error


def read_rows(file: str | Path) -> Dataset:
    """Rows of a JSONL file: `{"messages": [{"role", "content"}, …], …}`, media paths relative to the file's folder.

    The columns are `COLUMNS`: what else a row holds is left out.

    Raises:
        RowError: a row is not what it should be. Files are looked up here, not hours into a training; URLs are not.
    """
    rows = []
    for number, row in iter_rows(file):
        if isinstance(row, ValueError):
            raise RowError(f"{file}, row {number}: {row}.") from row
        rows.append(row)
    return join_rows(file, rows)


def join_rows(file: str | Path, rows: Sequence[dict[str, Any]]) -> Dataset:
    """`rows` of `file` as a dataset. RowError: there are none."""
    if not rows:
        raise RowError(f"{file}: holds no row.")
    return Dataset.from_dict({key: [row[key] for row in rows] for key in COLUMNS}, features=COLUMNS)


def read_source(source: str) -> Dataset:
    """A JSONL file, or a dataset of the Hub or in a folder (its "train" split). RowError: a row is unfit."""
    if is_jsonl(source):
        return read_rows(source)
    rows, unfit = read_dataset(source)
    for number, error in unfit.items():
        raise RowError(f"{source}, row {number}: {error}.") from error
    return rows


def read_dataset(source: str, limit: int | None = None) -> tuple[Dataset, dict[int, ValueError]]:
    """The "train" split of a dataset of the Hub or in a folder; and by number, from 1, what is wrong with its rows.

    Its messages show the media of its columns "images", "videos" and "scenes" (or "image" and the like, of one each)
    where they have an entry without a medium or a text has "<image>"; where they have none, before the first question.
    Paths are relative to its folder.

    Args:
        source: a name or a folder.
        limit: read so many rows at most.

    Raises:
        RowError: there is no such dataset, or it has neither messages nor contents.
    """
    rows = _load(source).with_format(None)
    rows = rows if limit is None else rows.select(range(min(limit, len(rows))))
    if not {"messages", "conversations", "content"} & set(rows.column_names):
        raise RowError(f"dataset={source}: it has {rows.column_names}, expected a column 'messages'.")
    media = {name: kind for kind in MEDIA for name in (f"{kind}s", kind) if name in rows.column_names}
    # Columns of texts hold paths, which become part of the messages.
    columns = [name for name in media if not _holds(rows.features[name], Value)]
    for name in columns:  # by the processor: its errors name the row
        for feature in (Image, Video):
            if _holds(rows.features[name], feature):
                several = not isinstance(rows.features[name], feature)
                rows = rows.cast_column(name, List(feature(decode=False)) if several else feature(decode=False))
    counts = {name: _count(rows, name) for name in columns}
    texts = ("prompts", *TEXTS, *TURNS, *(media.keys() - set(columns)))
    read = rows.select_columns([name for name in rows.column_names if name in texts])
    folder = Path(source) if Path(source).is_dir() else Path()
    checked, unfit = [], {}
    for index, row in enumerate(read):
        try:
            checked.append(check_row(row, folder, {name: counts[name][index] for name in columns}))
        except ValueError as error:
            checked.append({})
            unfit[index + 1] = error
    made = {key: [row.get(key) for row in checked] for key in ("prompts", *TEXTS)}
    made["source"] = [f"{source}, row {number}" for number in range(1, len(rows) + 1)]
    told = Dataset.from_dict(made, features=COLUMNS)
    return (concatenate_datasets([told, rows.select_columns(columns)], axis=1) if columns else told), unfit


def _holds(feature: Any, kind: type) -> bool:
    """Whether a column is of a kind, or of lists of it."""
    return isinstance(feature, kind) or isinstance(getattr(feature, "feature", None), kind)


def _load(source: str) -> Dataset:
    try:
        if Path(source, "state.json").is_file():
            return load_from_disk(source)
        if Path(source, "dataset_dict.json").is_file():
            return load_from_disk(source)["train"]
        return load_dataset(source, split="train", cache_dir=_cache_of(source))
    except (DatasetsError, OSError, KeyError, ValueError) as error:
        cause = f"{error}. {error.__cause__}" if isinstance(error, DatasetGenerationError) else error
        raise RowError(
            f"dataset={source}: {cause}. Expected a file of rows that ends in .jsonl, a folder of a dataset, or its name on "
            "the Hub, with a split 'train'."
        ) from error


def _count(rows: Dataset, name: str) -> list[int]:
    """How many media each row has in a column, without reading them."""
    values = rows.select_columns(name).with_format("arrow")[:].column(0)
    if not hasattr(values.type, "value_field"):  # one each
        return pc.cast(pc.is_valid(values), pa.int32()).to_pylist()
    counts: list[int] = []
    for chunk in values.chunks:
        valid = pc.list_flatten(chunk).is_valid().to_numpy(zero_copy_only=False)
        counts += np.bincount(pc.list_parent_indices(chunk).to_numpy()[valid], minlength=len(chunk)).tolist()
    return counts


def check_sources(sources: Sequence[str]) -> None:
    """Refuse a file that is not there, before anything long begins. FileNotFoundError: names it."""
    for source in sources:
        if is_jsonl(source) and not Path(source).is_file():
            raise FileNotFoundError(f"dataset={source}: there is no such file. Expected rows of JSON, see README.md.")


def iter_texts(rows: Dataset) -> Iterator[tuple[str, str | None, str | None]]:
    """Of each row the messages, the content, and what its teachers see, without its media."""
    for batch in rows.select_columns(["messages", "content", "teachers"]).iter(batch_size=1000):
        yield from zip(batch["messages"], batch["content"], batch["teachers"], strict=True)


def refuse_silent(rows: Dataset) -> None:
    """RowError: a row only names a content, which teaches nothing where no teacher's targets are given."""
    for index, (messages, _, _) in enumerate(iter_texts(rows)):
        if messages == "[]":
            raise RowError(
                f"{rows[index]['source']}: it names a content, and has no messages. Only `polyv train distill` takes that, "
                "with temporal_targets or spatial_targets; leave such rows out."
            )


def is_jsonl(source: str | Path) -> bool:
    """Whether `source` names a file of rows; all else is for `datasets` to load."""
    return str(source).endswith((".jsonl", ".json"))


def check_weights(sources: Sequence[str], weights: Sequence[float] | None) -> None:
    """ValueError: `weights` are not one above 0 for each of `sources`."""
    if weights is not None and (len(weights) != len(sources) or min(weights) <= 0):
        raise ValueError(
            f"dataset_weights: got {weights} for {len(sources)} datasets ({', '.join(map(str, sources))}), expected one "
            "above 0 for each. For other datasets than the recipe's give other weights, too: --dataset_weights 1."
        )


def read_mixture(sources: Sequence[str], weights: Sequence[float] | None, seed: int) -> Dataset:
    """JSONL files, or datasets of the Hub (their "train" split), as one.

    Without `weights` the sources are concatenated. With them, each next row comes from source i with probability
    `weights[i]`, until every source is used up; shorter ones repeat.

    Raises:
        RowError: a row is unfit, see `read_rows`.
        ValueError: `weights` do not fit `sources`.
    """
    check_weights(sources, weights)
    parts = [read_source(source) for source in sources]
    try:
        if weights is None:
            return concatenate_datasets(parts)
        shares = [weight / sum(weights) for weight in weights]
        return interleave_datasets(parts, probabilities=shares, seed=seed, stopping_strategy="all_exhausted")
    except (ValueError, TypeError) as error:  # columns of media may be of several kinds
        raise RowError(f"dataset: {' + '.join(map(str, sources))} cannot be mixed: {error}.") from error


def _cache_of(source: str | Path) -> str | None:
    """A cache for what a local folder holds now: by default, `datasets` takes what any folder of that name once held."""
    folder = Path(source)
    if not folder.is_dir():
        return None
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    content = [[str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns] for path in files]
    return os.path.join(HF_DATASETS_CACHE, f"polyv-{hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]}")
