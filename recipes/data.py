# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""Conversations as training data: rows of JSONL files or of datasets on the Hub, checked and mixed."""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from datasets import Dataset, Value, concatenate_datasets, interleave_datasets, load_dataset
from datasets.config import HF_DATASETS_CACHE

from polyv.csqa.media import decode_scene
from polyv.processing.still_images import is_address


MEDIA = ("image", "video", "scene")
_ROLES = ("system", "user", "assistant")


class RowError(ValueError):
    """A row that cannot be trained on. The message names its file, its row number (from 1) and the cause."""


def check_messages(messages: Any, folder: Path) -> list[dict[str, Any]]:
    """One conversation, normalised: contents are lists of entries, and relative media paths start at `folder`.

    Raises:
        ValueError: it is no conversation, it holds no answer, or a medium is missing.
    """
    if not isinstance(messages, list) or not messages:
        raise ValueError(f"'messages' is {messages!r:.60}, expected a list of {{'role', 'content'}}")
    checked = []
    for message in messages:
        if not isinstance(message, dict) or message.get("role") not in _ROLES or "content" not in message:
            raise ValueError(f"message {message!r:.80}: expected a 'role' among {', '.join(_ROLES)}, and a 'content'")
        content = message["content"]
        entries = [{"type": "text", "text": content}] if isinstance(content, str) else content
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise ValueError(f"content {content!r:.80}: expected a text or a list of {{'type', …}} entries")
        checked.append({"role": message["role"], "content": [_check_entry(entry, folder) for entry in entries]})
        if message["role"] == "assistant":
            answer = checked[-1]["content"]
            if not all(entry["type"] == "text" for entry in answer) or not "".join(e["text"] for e in answer).strip():
                raise ValueError(f"assistant turn {content!r:.80}: expected a text that is not empty")
    if checked[-1]["role"] != "assistant":
        raise ValueError("the last turn is not the assistant's, so there is no answer to learn")
    return checked


def _check_entry(entry: dict[str, Any], folder: Path) -> dict[str, Any]:
    kind = entry.get("type")
    if kind == "text" and isinstance(entry.get("text"), str):
        return {"type": "text", "text": entry["text"]}
    if kind not in MEDIA or not isinstance(medium := entry.get(kind, entry.get("path", entry.get("url"))), str):
        raise ValueError(f"entry {entry!r:.80}: expected a 'type' among text, {', '.join(MEDIA)}, and its value")
    if kind == "scene" or not is_address(medium):
        medium = os.path.join(folder, medium)
        if not os.path.exists(medium):
            raise ValueError(f"{kind} {medium}: no such file")
    settings = {key: value for key, value in entry.items() if key not in ("path", "url")}  # such as a video's "fps"
    return {**settings, kind: medium}


def check_content(content: Any, folder: Path) -> dict[str, str | list[str]]:
    """What names one content in several modalities, with paths that start at `folder`: {"image": FILE or [FILE, …],
    "video": FILE, "scene": DIR}, any of them. `<synergy>` learns from it (`polyv train distill`).

    Raises:
        ValueError: it is something else, or a medium is missing.
    """
    if not isinstance(content, dict) or not content or not set(content) <= set(MEDIA):
        raise ValueError(f"'content' is {content!r:.80}, expected some of {', '.join(MEDIA)} with the path of each")
    checked: dict[str, str | list[str]] = {}
    for kind, media in content.items():
        several = kind == "image" and isinstance(media, list)
        if not media or not all(isinstance(path, str) for path in (media if several else [media])):
            raise ValueError(f"'content' has {kind} {media!r:.80}, expected a path{' or several' * (kind == 'image')}")
        entries = [_check_entry({"type": kind, kind: path}, folder)[kind] for path in (media if several else [media])]
        checked[kind] = entries if several else entries[0]
    return checked


def is_silent(row: dict[str, Any]) -> bool:
    """Whether a row only names a content, without a conversation about it."""
    return row.get("content") is not None and row.get("messages") in (None, [], "[]")


def iter_rows(file: str | Path) -> Iterator[tuple[int, dict[str, Any] | ValueError]]:
    """Each row of a JSONL file with its number, from 1: as `read_rows` has it, or what is wrong with it, not raised."""
    file = Path(file)
    with file.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = _parse(line)
                if not isinstance(row, dict):
                    raise ValueError(f"expected an object, got {row!r:.60}")
                for key in ("content", "teachers"):
                    if row.get(key) is not None:
                        row[key] = json.dumps(check_content(row[key], file.parent), ensure_ascii=False)
                messages = [] if is_silent(row) else check_messages(row.get("messages"), file.parent)
            except ValueError as error:
                yield number, error
            else:
                text = json.dumps(messages, ensure_ascii=False)
                yield number, {**row, "messages": text, "source": f"{file}, row {number}"}


def _parse(line: bytes) -> Any:
    """JSON of a line; ValueError: what is wrong with it, and where in the line."""
    try:
        return json.loads(line.rstrip())
    except json.JSONDecodeError as error:
        raise ValueError(f"it is not JSON: {error.msg}, at character {error.pos + 1} of the line") from error


def read_rows(file: str | Path) -> Dataset:
    """Rows of a JSONL file: `{"messages": [{"role", "content"}, …], …}`, media paths relative to the file's folder.

    The columns are "messages" (JSON text, as the entries of one list differ in their keys), "source" (file and row),
    "content" (JSON text, see `check_content`; a row that has it may lack messages) and whatever else the rows hold.

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
    """`rows` of `file` as a dataset. RowError: there are none, or the values of a column differ in type."""
    if not rows:
        raise RowError(f"{file}: holds no row.")
    columns = dict.fromkeys(key for row in rows for key in row)  # `from_list` would know the first row's only
    try:
        return Dataset.from_dict({key: [row.get(key) for row in rows] for key in columns})
    except (TypeError, ValueError) as error:  # from Arrow
        raise RowError(f"{file}: the values of one key differ in type from row to row: {error}.") from error


def read_source(source: str) -> Dataset:
    """A JSONL file, or a dataset of the Hub or in a folder (its "train" split). RowError: a row is unfit."""
    if is_jsonl(source):
        return read_rows(source)
    rows = load_dataset(source, split="train", cache_dir=_cache_of(source))
    if "messages" in rows.column_names and not isinstance(rows.features["messages"], Value):
        # As text, like those of a file: columns of two types could not stand in one mixture.
        texts = Dataset.from_dict({"messages": [json.dumps(each, ensure_ascii=False) for each in rows["messages"]]})
        rest = rows.remove_columns("messages")
        rows = concatenate_datasets([rest, texts], axis=1) if rest.column_names else texts
    return rows


def check_sources(sources: Sequence[str]) -> None:
    """Refuse a file that is not there, before anything long begins. FileNotFoundError: names it."""
    for source in sources:
        if is_jsonl(source) and not Path(source).is_file():
            raise FileNotFoundError(f"dataset={source}: there is no such file. Expected rows of JSON, see README.md.")


def is_jsonl(source: str | Path) -> bool:
    """Whether `source` names a file of rows; all else is for `datasets` to load."""
    return str(source).endswith((".jsonl", ".json"))


def read_mixture(sources: Sequence[str], weights: Sequence[float] | None, seed: int) -> Dataset:
    """JSONL files, or datasets of the Hub (their "train" split), as one.

    Without `weights` the sources are concatenated. With them, each next row comes from source i with probability
    `weights[i]`, until every source is used up; shorter ones repeat.

    Raises:
        RowError: a row is unfit, see `read_rows`.
        ValueError: `weights` do not fit `sources`.
    """
    if weights is not None and (len(weights) != len(sources) or min(weights) <= 0):
        raise ValueError(
            f"dataset_weights: got {weights} for {len(sources)} datasets ({', '.join(map(str, sources))}), expected one "
            "above 0 for each. For other datasets than the recipe's give other weights, too: --dataset_weights 1."
        )
    parts = [read_source(source) for source in sources]
    for source, part in zip(sources, parts, strict=True):
        if "messages" not in part.column_names:
            raise RowError(f"dataset={source}: it has {part.column_names}, expected a column 'messages'.")
    if weights is None:
        return concatenate_datasets(parts)
    shares = [weight / sum(weights) for weight in weights]
    return interleave_datasets(parts, probabilities=shares, seed=seed, stopping_strategy="all_exhausted")


def _cache_of(source: str | Path) -> str | None:
    """A cache for what a local folder holds now: by default, `datasets` takes what any folder of that name once held."""
    folder = Path(source)
    if not folder.is_dir():
        return None
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    content = [[str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns] for path in files]
    return os.path.join(HF_DATASETS_CACHE, f"polyv-{hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]}")


def read_messages(row: dict[str, Any]) -> list[dict[str, Any]]:
    """The conversation of a row, from JSON text or from a Hub dataset's columns.

    Arrow fills keys that an entry lacks with None: they are dropped. An entry without a medium of its own takes the
    next of the row's column "images", "videos" or "scenes", as TRL's vision datasets have them.

    Raises:
        RowError: that column holds too few.
    """
    if is_silent(row):
        raise RowError(
            f"{row.get('source', 'a row')}: it names a content, and has no messages; only `polyv train distill` takes that."
        )
    messages = json.loads(row["messages"]) if isinstance(row["messages"], str) else row["messages"]
    columns = {kind: iter(row.get(f"{kind}s") or ()) for kind in MEDIA}
    filled = []
    for message in messages:
        content = message["content"]
        if isinstance(content, str):
            content = [{"type": "text", "text": content}]
        entries = [{key: value for key, value in entry.items() if value is not None} for entry in content]
        for entry in entries:
            if entry["type"] in MEDIA and len(entry) == 1:
                medium = next(columns[entry["type"]], None)
                if medium is None:
                    raise RowError(
                        f"its messages show one more {entry['type']} than its column {entry['type']}s holds (id "
                        f"{row.get('id')!r:.80}). If the dataset only names its media, add them first: polyv csqa fill."
                    )
                entry[entry["type"]] = _read_column(entry["type"], medium)
        filled.append({"role": message["role"], "content": entries})
    return filled


def read_content(row: dict[str, Any], whose: Literal["content", "teachers"] = "teachers") -> dict[str, Any]:
    """The media that a row's content consists of, by modality; or those that its teachers see, which are the same where
    it does not say otherwise (see `polyv.recipes.synergy.SynergyCollator`)."""
    content = row.get(whose) or row.get("content")
    if content is not None:
        content = json.loads(content) if isinstance(content, str) else content
        return {kind: medium for kind, medium in content.items() if medium is not None}
    shown: dict[str, list[Any]] = {"video": [], "scene": []}
    for message in read_messages(row):
        for entry in message["content"]:
            if entry["type"] in shown:
                shown[entry["type"]].append(entry[entry["type"]])
    return {kind: media[0] for kind, media in shown.items() if len(media) == 1}


def ask_about(kind: str, medium: Any, prompt: str | None = None) -> list[dict[str, Any]]:
    """A conversation about one medium, with an empty answer: what a student is shown of a content."""
    entries = [{"type": kind, kind: medium}, {"type": "text", "text": prompt or f"Describe the {kind}."}]
    return [{"role": "user", "content": entries}, {"role": "assistant", "content": [{"type": "text", "text": ""}]}]


def _read_column(kind: str, value: Any) -> Any:
    """A medium of a dataset's column as the processor takes it: bytes, where `datasets` has not decoded them."""
    if kind == "scene" and isinstance(value, dict):
        return decode_scene(value)
    if isinstance(value, dict) and value.keys() == {"bytes", "path"}:
        return value["bytes"] if value["bytes"] is not None else value["path"]
    return value
