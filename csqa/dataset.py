# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""`polyv csqa build`: questions over scene graphs as a dataset for the Hub, in Parquet.

    DIR/README.md                     the card
    DIR/data/train-00000-of-00016.parquet, ...
    DIR/graphs/train.jsonl, ...       the scene graphs that the answers come from, for `polyv csqa verify`
    DIR/statistics.json               counts, answers, priors
    DIR/rejected_wordings.jsonl       with --wording openai:MODEL: what was not taken, and why

It is made in a hidden folder beside its place, `.NAME.partial`, and moves there when it is complete. Killed, the same call goes on.
"""

import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, groupby, islice
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from huggingface_hub.constants import HF_HOME
from tqdm import tqdm

from polyv.csqa.card import write_card
from polyv.csqa.endpoint import Endpoint
from polyv.csqa.importers.world import read_world
from polyv.csqa.media import COLUMNS, FEATURES, encode
from polyv.csqa.pairing import with_image
from polyv.csqa.records import SPLITS, Media, SceneRecord, Split, read_records, write_records
from polyv.csqa.selection import CAP, TEMPLATE, crossed_priors, select, text_priors, thin
from polyv.csqa.wording import model_of, word, write_rejections
from polyv.files import whole
from polyv.world.make import alone_in, make_world


VERSION = 7  # raise it whenever the same request gives other rows
_SHARES: dict[Split, int] = {"train": 8, "validation": 1, "test": 1}
_QUESTIONS_A_SCENE = 13  # twice as many can be asked: so that rare templates are asked often enough
_SHARD, GROUP = 1000, 500  # rows
_REQUEST = "request.json"


class _Note(NamedTuple):
    """Of a scene: where it is from, and its media, whose paths start at `folder`."""

    split: Split
    source: str
    media: Media
    folder: Path


def build(
    out: str | os.PathLike,
    questions: int,
    seed: int,
    source: str | Sequence[str | os.PathLike] = "world",
    size: int = 112,
    workers: int | None = None,
    wording: str = TEMPLATE,
    cache: str | os.PathLike | None = None,
    concurrency: int = 8,
    progress: bool = True,
) -> Path:
    """Write `questions` questions with their media, programs and graphs.

    Args:
        out: folder to write; it must not exist.
        questions: how many, over all splits: of the world eight of ten for training, one each for validation and test; of
            graphs of your own as its scenes give them.
        seed: of the world and of the choice. The same call gives the same bytes on the same machine and versions.
        source: "world", which is made for this, or JSON Lines files of scene graphs, whose media's paths start at their folder.
        size: width and height of the world's pictures, pixels.
        workers: processes that render; None takes all cores.
        wording: "template", or "openai:MODEL" for a model's words where they hold (see `polyv.csqa.wording`).
        cache: folder of what models answered, by the hash of what was asked; None: polyv/wording in the cache of Hugging Face.
        concurrency: requests at a time.
        progress: show progress bars.

    Returns:
        `out` as a path.

    Raises:
        FileExistsError: `out` exists.
        ValueError: an argument out of range, a bad record, or graphs that give fewer questions.
        BlockingIOError: another process is building `out`.
        EndpointError: the model does not answer. The same call goes on with what it answered so far.
    """
    out = Path(out)
    if out.exists():
        raise FileExistsError(f"out={out}: it exists already. Give another folder, or remove it.")
    files = [] if source == "world" else [Path(file) for file in ([source] if isinstance(source, str) else source)]
    request = {"version": VERSION, "questions": questions, "seed": seed, "size": size, "wording": wording}
    model = model_of(wording)
    least = 1 if files else 10  # so that each split of the world has one
    if questions < least:
        raise ValueError(f"questions: got {questions}, expected {least} or more.")
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed: got {seed}, expected a whole number from 0 to 2**32 - 1.")
    endpoint = None if model is None else Endpoint(model, _cache_file(cache, model), concurrency)
    if endpoint is not None:
        endpoint.run([endpoint.probe()], bool)  # before anything is rendered
        request["endpoint"] = endpoint.url
    splits = _splits(files) if files else SPLITS
    counts = _share(questions, _SHARES)
    stamps = [file_stamp(file) for file in files]
    partial = out.parent / f".{out.name}.partial"
    partial.mkdir(parents=True, exist_ok=True)
    with alone_in(partial, "polyv csqa build"):
        begin(partial, {**request, "source": stamps or "world"})
        rows: dict[Split, list[dict[str, Any]]] = {}
        refused: Counter[str] = Counter()
        notes: dict[str, _Note] = {}
        for split in splits:
            if files:
                sources = [(read_records(file), file.parent) for file in files]
            else:
                world = partial / "work" / split
                scenes = -(-counts[split] // _QUESTIONS_A_SCENE) + 1
                make_world(world, scenes, seed, size, split, workers, progress)
                sources = [(read_world(world), world)]
            records = chain.from_iterable(_note(part, split, folder, notes) for part, folder in sources)
            graphs = _graphs(partial, split)
            graphs.parent.mkdir(exist_ok=True)
            number = write_records(graphs, _with_bar(records, f"{split} graphs", progress))
            rows[split] = select(
                _with_bar(read_records(graphs), f"{split} questions", progress, number), seed, refused
            )
        priors = crossed_priors(rows["train"]) if "train" in rows else {}
        telling = {name: prior for name, prior in priors.items() if prior > CAP}
        rows = {split: [row for row in rows[split] if row["template"] not in telling] for split in rows}
        available = {split: len(of_split) for split, of_split in rows.items()}
        if files:
            counts = _share(questions, available)
        for split in splits:
            if counts[split] > available[split]:
                raise ValueError(
                    f"questions={questions}: the {split} scenes give {available[split]}, of all of them {sum(available.values())}. Take "
                    "more scenes, or ask for fewer questions."
                )
            rows[split] = thin(rows[split], counts[split])
        if endpoint is not None:
            everything = [row for split in splits for row in rows[split]]
            records = chain.from_iterable(read_records(_graphs(partial, split)) for split in splits)
            everything, rejections = word(everything, records, endpoint, progress)
            in_order = iter(everything)
            rows = {split: list(islice(in_order, len(rows[split]))) for split in splits}
        for split in splits:
            _write_shards(partial, split, rows[split], notes, progress)
        for split in [split for split in splits if not rows[split]]:
            del rows[split]
            _graphs(partial, split).unlink()
        statistics = {
            **_statistics(rows, refused, priors),
            "left_out": telling,
            "sources": _sources(note for note in notes.values() if note.split in rows),
        }
        if endpoint is not None:
            causes = write_rejections(partial / "rejected_wordings.jsonl", rejections)
            taken = sum(row["wording"] == wording for of_split in rows.values() for row in of_split)
            statistics["wording"] = {"by": wording, "taken": taken, "rejected": dict(causes.most_common())}
        (partial / "statistics.json").write_text(json.dumps(statistics, indent=2) + "\n", encoding="utf-8")
        write_card(partial, {**request, "source": "files" if files else "world"}, statistics)
        shutil.rmtree(partial / "work", ignore_errors=True)
        finish(partial, out)
    return out


def _cache_file(cache: str | os.PathLike | None, model: str) -> Path:
    folder = Path(HF_HOME) / "polyv" / "wording" if cache is None else Path(cache)
    return folder / f"{re.sub(r'[^A-Za-z0-9._-]', '_', model)}.jsonl"


def _graphs(folder: Path, split: Split) -> Path:
    return folder / "graphs" / f"{split}.jsonl"


def _share(questions: int, weights: Mapping[Split, int]) -> dict[Split, int]:
    """Questions of each split, by their weights. The largest remainders are rounded up."""
    total = max(sum(weights.values()), 1)
    counts = {split: questions * weight // total for split, weight in weights.items()}
    by_remainder = sorted(weights, key=lambda split: -(questions * weights[split] % total))
    for split in by_remainder[: questions - sum(counts.values())]:
        counts[split] += 1
    return counts


def _splits(files: Sequence[Path]) -> tuple[Split, ...]:
    """The splits that the files hold scenes of.

    Raises:
        ValueError: a file is none, holds nothing, or a scene stands twice.
    """
    seen: dict[str, Path] = {}
    found = set()
    for file in files:
        if not file.is_file():
            raise FileNotFoundError(
                f"source={file}: no such file. Give JSON Lines of scene graphs, or only the word world."
            )
        for record in read_records(file):
            if record.scene_id in seen:
                raise ValueError(f"source={file}: scene {record.scene_id} stands in {seen[record.scene_id]} already.")
            seen[record.scene_id] = file
            found.add(record.split)
    if not found:
        raise ValueError(f"source={', '.join(map(str, files))}: no scene graph there.")
    return tuple(split for split in SPLITS if split in found)


def begin(partial: Path, request: dict) -> None:
    """Go on with what is there if it was begun for the same request; else begin anew."""
    text = json.dumps(request, indent=1, sort_keys=True) + "\n"
    note = partial / _REQUEST
    if note.is_file() and note.read_text(encoding="utf-8") == text:
        return
    for path in partial.iterdir():
        if path.name != ".lock":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    note.write_text(text, encoding="utf-8")


def finish(partial: Path, out: Path) -> None:
    """Put what `begin` began, and is complete, in its place."""
    for name in (_REQUEST, ".lock"):
        (partial / name).unlink()
    partial.rename(out)


def file_stamp(file: Path) -> list:
    """What tells whether a file was changed."""
    return [str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns]


def _note(
    records: Iterable[SceneRecord], split: Split, folder: Path, notes: dict[str, _Note]
) -> Iterator[SceneRecord]:
    """The records of a split, each with an image; `notes` gathers what of them is needed later."""
    for record in records:
        if record.split == split:
            paired = with_image(record)
            notes[record.scene_id] = _Note(split, record.source, paired.media, folder)
            yield paired


def _with_bar(items: Iterable, desc: str, progress: bool, total: int | None = None) -> Iterator:
    return iter(tqdm(items, desc=desc, total=total, unit="scene", disable=not progress))


def _write_shards(
    out: Path, split: Split, rows: list[dict[str, Any]], notes: dict[str, _Note], progress: bool
) -> None:
    """Write what is missing of a split's files, each whole or not at all; media that may not be shared stay out."""
    (out / "data").mkdir(exist_ok=True)
    total = -(-len(rows) // _SHARD)
    paths = [out / "data" / f"{split}-{index:05d}-of-{total:05d}.parquet" for index in range(total)]
    with tqdm(total=len(rows), desc=f"{split} files", unit="row", disable=not progress) as bar:
        for index, path in enumerate(paths):
            chunk = _chunk(rows, index)
            if not path.exists():
                starts = range(0, len(chunk), GROUP)
                write_tables(path, (_table(chunk[start : start + GROUP], notes) for start in starts))
            bar.update(len(chunk))


def write_tables(path: Path, tables: Iterable[pa.Table]) -> None:
    """Write a file of Parquet, whole or not at all, each table as a group of rows, in which what many rows show is stored once."""
    with (
        whole(path) as partial,
        pq.ParquetWriter(
            partial,
            FEATURES.arrow_schema,
            compression="zstd",
            use_dictionary=True,
            dictionary_pagesize_limit=2**30,
        ) as writer,
    ):
        for table in tables:
            writer.write_table(table)


def _chunk(rows: list[dict[str, Any]], index: int) -> list[dict[str, Any]]:
    return rows[index * _SHARD : (index + 1) * _SHARD]


def _table(rows: list[dict[str, Any]], notes: dict[str, _Note]) -> pa.Table:
    filled = []
    for scene_id, of_scene in groupby(rows, key=lambda row: row["scene_id"]):
        note, encoded = notes[scene_id], dict[str, dict[str, Any]]()
        for row in of_scene:
            shown = row["shown"] if note.media.shared else ()
            for kind in shown:
                if kind not in encoded:
                    encoded[kind] = encode(kind, note.media, note.folder)
            columns = {column: [encoded[kind]] if kind in shown else [] for kind, column in COLUMNS.items()}
            filled.append({**row, **columns})
    return pa.Table.from_pylist(filled, schema=FEATURES.arrow_schema)


def _sources(notes: Iterable[_Note]) -> dict[str, dict[str, Any]]:
    """Of each source: its scenes, and whether their media are in the dataset."""
    sources: dict[str, dict[str, Any]] = {}
    for note in notes:
        source = sources.setdefault(note.source, {"scenes": 0, "shared": note.media.shared})
        source["scenes"] += 1
        source["shared"] &= note.media.shared
    return sources


def _statistics(
    rows: dict[Split, list[dict[str, Any]]], refused: Counter[str], crossed: dict[str, float]
) -> dict[str, Any]:
    """Per template: rows of each split, answers, and what the words of the question alone tell, held out and within training."""
    everything = [row for split in rows.values() for row in split]
    held_out = rows.get("test") or rows.get("validation")
    priors = text_priors(rows["train"], held_out) if "train" in rows and held_out else {}
    templates = {}
    for name in dict.fromkeys(row["template"] for row in sorted(everything, key=lambda row: row["family"])):
        of_it = [row for row in everything if row["template"] == name]
        answers = Counter(row["answer"] for row in of_it)
        templates[name] = {
            **{key: of_it[0][key] for key in ("family", "shown", "needed")},
            "rows": {split: sum(row["template"] == name for row in rows[split]) for split in rows},
            "answers": dict(answers.most_common()),
            "text_prior": priors.get(name),
            "text_prior_in_training": crossed.get(name),
            "example": [of_it[0]["question"], of_it[0]["answer"]],
        }
    return {
        "rows": {split: len(of_split) for split, of_split in rows.items()},
        "scenes": {split: len({row["scene_id"] for row in of_split}) for split, of_split in rows.items()},
        "templates": templates,
        "ill_posed": dict(refused.most_common(30)),
    }


__all__ = ["GROUP", "begin", "build", "file_stamp", "finish", "write_tables"]
