# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""`polyv data check`: read every row as training would, name each that it would stop at, and count what the others hold."""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

import torch
from datasets import Dataset, concatenate_datasets
from torch.utils.data import DataLoader
from tqdm import tqdm
from transformers import AutoConfig, PreTrainedConfig

from polyv.files import write_whole
from polyv.hub.adapters import check_whole
from polyv.processing.processing_polyv import PolyVProcessor
from polyv.recipes.collator import IGNORED, ConversationCollator, MediaArguments
from polyv.recipes.data import check_sources, is_jsonl, iter_rows, join_rows, read_dataset
from polyv.recipes.histogram import draw, spread_of
from polyv.recipes.rows import MEDIA, ask_about, is_silent, read_content, read_messages


MODALITIES = ("text", *MEDIA)
_SHOWN = 5  # of remarks of one kind, in print; the JSON file has all
_Task = tuple[str, int, "dict[str, Any] | ValueError | Dataset"]


class Place(NamedTuple):
    """A row: of which dataset (as it was named), and its number there, from 1; for a JSONL file its line's."""

    dataset: str
    row: int

    def __str__(self) -> str:
        return f"{self.dataset}, row {self.row}"


class Unfit(NamedTuple):
    """A row that cannot be trained on, and why. Without a number: what a dataset has as a whole."""

    dataset: str
    row: int | None
    cause: str

    def __str__(self) -> str:
        return f"{self.dataset}: {self.cause}" if self.row is None else f"{self.dataset}, row {self.row}: {self.cause}"


class Row(NamedTuple):
    """What a row holds that can be trained on.

    Attributes:
        tokens: of each modality. A medium's are those that carry its pixels; all others, marks of turns and media
            among them, are text.
        answer_tokens: how many of them are targets (`labels` other than -100).
        turns: the assistant's.
        media: their kinds, in order.
        digest: of all the tensors that the model gets.
        silent: it only names a content; the rest is of the longest that a student may be shown of it.
    """

    place: Place
    tokens: dict[str, int]
    answer_tokens: int
    turns: int
    media: tuple[str, ...]
    digest: bytes
    silent: bool = False


@dataclass
class Report:
    """What `check` found; `lengths` are tokens a row, by the kinds of media it shows."""

    max_length: int
    rows: Counter[str] = field(default_factory=Counter)
    unfit: list[Unfit] = field(default_factory=list)
    lengths: dict[str, list[int]] = field(default_factory=dict)
    tokens: Counter[str] = field(default_factory=Counter)
    media: Counter[str] = field(default_factory=Counter)
    turns: int = 0
    answer_tokens: int = 0
    too_long: list[tuple[Place, int]] = field(default_factory=list)
    silent: int = 0
    identical: list[tuple[Place, Place]] = field(default_factory=list)
    first: dict[bytes, Place] = field(default_factory=dict, repr=False)

    @property
    def unfit_rows(self) -> int:
        return sum(unfit.row is not None for unfit in self.unfit)

    def add(self, row: Row | Unfit) -> None:
        """Count one more row; they come in order."""
        if isinstance(row, Unfit):
            self.unfit.append(row)
            if row.row is not None:
                self.rows[row.dataset] += 1
            return
        length = sum(row.tokens.values())
        self.rows[row.place.dataset] += 1
        self.lengths.setdefault(combination(row.media), []).append(length)
        self.tokens.update(row.tokens)
        self.media.update(row.media)
        self.turns += row.turns
        self.answer_tokens += row.answer_tokens
        if length > self.max_length:
            self.too_long.append((row.place, length))
        self.silent += row.silent
        if (first := self.first.setdefault(row.digest, row.place)) != row.place:
            self.identical.append((row.place, first))

    def summary(self) -> str:
        """One line: how much of it cannot be trained on."""
        whole = len(self.unfit) - self.unfit_rows
        text = f"{self.unfit_rows:,} of {self.rows.total():,} rows cannot be trained on"
        return text + (f", nor {whole} dataset{'s' * (whole > 1)} as a whole" if whole else "")

    def to_dict(self) -> dict[str, Any]:
        """For JSON. `unfit` and what follows it name every row."""
        return {
            "rows": dict(self.rows),
            "lengths": {name: spread_of(lengths) for name, lengths in sorted(self.lengths.items())},
            "tokens": {kind: self.tokens[kind] for kind in MODALITIES} | {"answers": self.answer_tokens},
            "media": {kind: self.media[kind] for kind in MEDIA},
            "turns": self.turns,
            "silent": self.silent,
            "max_length": self.max_length,
            "unfit": [unfit._asdict() for unfit in self.unfit],
            "too_long": [{**place._asdict(), "tokens": tokens} for place, tokens in self.too_long],
            "identical": [{**place._asdict(), "first": first._asdict()} for place, first in self.identical],
        }

    def to_text(self) -> str:
        """Tables of lengths and tokens, what is suspicious, and a line for each row that cannot be trained on."""
        spreads = [(name, *spread_of(lengths).values()) for name, lengths in sorted(self.lengths.items())]
        spreads += [("all", *spread_of(list(chain(*self.lengths.values()))).values())]
        counts = [(kind, self.tokens[kind], f"{kind}s", self.media[kind]) for kind in MODALITIES if self.tokens[kind]]
        counts += [("answers", self.answer_tokens, "turns", self.turns)]
        tokens = [
            (
                kind,
                count,
                f"{count / max(self.tokens.total(), 1):.1%}",
                *((f"{bearers:,} {what}", f"{count / bearers:,.1f}") if bearers else ("", "")),
            )
            for kind, count, what, bearers in counts
        ]
        too_long = [f"{place}: {tokens:,}" for place, tokens in self.too_long]
        lines = [
            *_table(("rows that show", "rows", "median tokens", "95 %", "longest"), spreads),
            "",
            *_table(("tokens of", "tokens", "share", "in", "each"), tokens),
            "",
            *([f"{self.silent:,} rows only name a content, for `polyv train distill`"] if self.silent else []),
            *_remark(f"longer than {self.max_length:,} tokens", too_long),
            *_remark(
                "the same to the model as an earlier one", [f"{place}: as {first}" for place, first in self.identical]
            ),
            f"{self.summary()}{':' if self.unfit else ''}",
            *(f"  {unfit}" for unfit in self.unfit),
        ]
        return "\n".join(lines)


def combination(media: Iterable[str]) -> str:
    """Kinds of media, each once: "image + video"; "text" of none."""
    kinds = set(media)
    return " + ".join(kind for kind in MEDIA if kind in kinds) or "text"


def run(
    datasets: Sequence[str],
    model: str,
    out: Path,
    limit: int | None = None,
    workers: int | None = None,
    max_length: int | None = None,
    media: MediaArguments | None = None,
) -> Report:
    """`check`, then print what it found, write it to `out` as JSON, and draw how long rows are beside it, as PNG.

    Raises:
        ValueError: a row cannot be trained on; both files are written and all such rows are named before. Or `out` is no
            .json file, or as `check` says.
        OSError: `out` cannot be written, or as `check` says.
    """
    if out.suffix != ".json" or out.is_dir():
        raise ValueError(f"out={out}: expected a file that ends in .json; the picture is named after it.")
    out.parent.mkdir(parents=True, exist_ok=True)  # hours later is late to learn that it cannot be
    report = check(datasets, model, limit, workers, max_length, media)
    picture = out.with_suffix(".png")
    draw(report, picture)
    content = {"model": model, "datasets": list(datasets), "limit": limit, **report.to_dict()}
    write_whole(out, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    print(f"As {model} reads them:\n\n{report.to_text()}\n\n{out}\n{picture}", flush=True)
    if report.unfit:
        raise ValueError(f"dataset: {report.summary()}. Mend them or leave them out; {out} names each.")
    return report


def check(
    datasets: Sequence[str],
    model: str,
    limit: int | None = None,
    workers: int | None = None,
    max_length: int | None = None,
    media: MediaArguments | None = None,
) -> Report:
    """Read every row as training would: media decoded, and made into tensors, for real; also those that only a row's
    "content" names.

    Shows a progress bar. Holds rows' texts in memory, media of one row a process.

    Args:
        datasets: what `read_mixture` takes: JSONL files, folders of a dataset, names on the Hub.
        model: folder or Hub name of a PolyV or Qwen2.5-VL checkpoint, whose processor reads the rows. (With `--upcycle`, a
            Qwen2.5-VL is trained with one token more for each answer than is counted here, `<synergy>`.)
        limit: rows of each dataset, its first ones; None takes all.
        workers: processes that read; None takes one a core. What is found does not depend on it.
        max_length: rows of more tokens are named; None takes the model's `max_position_embeddings`.
        media: how large the model sees them; None: as its processor has it.

    Raises:
        FileNotFoundError: there is no such dataset or checkpoint.
        ValueError: an argument is out of range, a dataset has no messages, or a process was killed.
    """
    for argument, number in (("limit", limit), ("workers", workers), ("max_length", max_length)):
        if number is not None and number < 1:
            raise ValueError(f"{argument}={number}: expected at least 1. Leave it out for the default.")
    if not datasets:
        raise ValueError("dataset: got none. Give one or more JSONL files of conversations, or names on the Hub.")
    check_sources(list(map(str, datasets)))
    check_whole("model", model)
    config = AutoConfig.from_pretrained(model)
    report = Report(max_length or config.get_text_config().max_position_embeddings)
    tasks, faults = _collect(datasets, limit)
    for fault in faults:
        report.add(fault)
    for result in _each_read(tasks, _Reader(model, config, media or MediaArguments()), workers or _cores()):
        report.add(result)
    return report


def _collect(datasets: Sequence[str], limit: int | None) -> tuple[list[_Task], list[Unfit]]:
    """All rows, or where to find them; and what keeps a dataset from training, or them from being mixed, as such."""
    tasks: list[_Task] = []
    faults, parts = [], []
    for name in map(str, datasets):
        if is_jsonl(name):
            rows = list(islice(iter_rows(name), limit))
            tasks += [(name, number, row) for number, row in rows]
            fit = [row for _, row in rows if not isinstance(row, ValueError)]
            if not rows:
                faults.append(Unfit(name, None, "holds no row."))
            elif fit:
                parts.append(join_rows(name, fit))
        else:
            part, unfit = read_dataset(name, limit)
            tasks += [(name, number, unfit.get(number, part)) for number in range(1, len(part) + 1)]
            parts.append(part)
    try:
        if parts:
            concatenate_datasets(parts)
    except (ValueError, TypeError) as error:
        faults.append(Unfit(" + ".join(datasets), None, f"they cannot be mixed: {_cause(error)}"))
    return tasks, faults


def _each_read(tasks: list[_Task], reader: "_Reader", workers: int) -> Iterator[Row | Unfit]:
    """In order, whatever process read them: by the loader that training uses, with `reader` for its collator."""
    # Never in this process: there, torch would start threads as many as cores for each small picture.
    several = {"num_workers": min(workers, len(tasks)), "prefetch_factor": 16} if tasks else {}
    load: Any = DataLoader
    loader = load(tasks, batch_size=None, collate_fn=reader, **several)
    done = 0
    try:
        for row in tqdm(loader, total=len(tasks), desc="rows", unit="row", disable=None):
            yield row
            done += 1
    except RuntimeError as error:  # from the loader: whatever a row raises is caught
        raise ValueError(
            f"workers={workers}: one was killed after {done} rows ({error}). If memory ran out, give fewer."
        ) from error


class _Reader:
    """Reads rows as training's collator does, and counts them."""

    def __init__(self, model: str, config: PreTrainedConfig, media: MediaArguments):
        self.processor = PolyVProcessor.from_pretrained(model, add_synergy=config.model_type == "polyv")
        media.bound(self.processor)
        self.collator = ConversationCollator(self.processor, accepts=())

    def __call__(self, task: _Task) -> Row | Unfit:
        name, number, row = task
        try:
            if isinstance(row, ValueError):
                raise row
            # Of a dataset, not before: `datasets` decodes its pictures here.
            return self.count(Place(name, number), row if isinstance(row, dict) else row[number - 1])
        except Exception as error:  # whatever it is, training would end with it
            return Unfit(name, number, _cause(error))

    def count(self, place: Place, row: dict[str, Any]) -> Row:
        """Process one row, and what else its content holds."""
        content = read_content(row, "content") if row.get("content") else {}
        messages = [] if is_silent(row) else read_messages(row)
        seen = [entry[entry["type"]] for message in messages for entry in message["content"]]
        prompt = max(row.get("prompts") or [], key=len, default=None)
        shown = [
            self.encode(place, ask_about(kind, medium, prompt))
            for kind, media in content.items()
            for medium in (media if isinstance(media, list) else [media])
            if medium not in seen
        ]
        if messages:
            return self.encode(place, messages)
        longest = max(shown, key=lambda one: sum(one.tokens.values()))
        return longest._replace(answer_tokens=0, turns=0, silent=True)

    def encode(self, place: Place, messages: list[dict[str, Any]]) -> Row:
        """Process one conversation and count its tokens by the entries that they stand for."""
        batch = dict(
            self.processor.apply_chat_template(
                [messages],
                tokenize=True,
                return_dict=True,
                return_tensors="pt",
                return_text_replacement_offsets=True,
            )
        )
        tokens = dict.fromkeys(MODALITIES, 0)
        for medium in batch.pop("text_replacement_offsets")[0]:
            pads = (self.processor.image_token, self.processor.video_token)
            tokens[medium["type"]] += sum(medium["replacement"].count(pad) for pad in pads)
        ids = batch["input_ids"]
        tokens["text"] = ids.shape[1] - sum(tokens.values())
        return Row(
            place,
            tokens,
            answer_tokens=int((self.collator.mask(ids) != IGNORED).sum()),
            turns=sum(message["role"] == "assistant" for message in messages),
            media=tuple(e["type"] for message in messages for e in message["content"] if e["type"] != "text"),
            digest=_digest(batch),
        )


def _digest(batch: dict[str, torch.Tensor]) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(batch.items()):
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().numpy().data)
    return digest.digest()


def _cause(error: Exception) -> str:
    """In one line, less the middle of a long one; with its class where that is none whose message is for a reader."""
    text = " ".join(str(error).split())
    text = text if len(text) <= 600 else f"{text[:300]} … {text[-300:]}"
    return text if isinstance(error, (ValueError, OSError, TypeError)) and text else f"{type(error).__name__}: {text}"


def _cores() -> int:
    """Those that this process may use; where the system does not tell (macOS), all."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    """Aligned lines: the first column to the left, numbers to the right."""
    texts = [head, *([value if isinstance(value, str) else f"{value:,}" for value in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    aligned = [[text[0].ljust(widths[0]), *map(str.rjust, text[1:], widths[1:])] for text in texts]
    return ["  ".join(line).rstrip() for line in aligned]


def _remark(what: str, places: Sequence[Any]) -> list[str]:
    """A line that counts, and the first of them."""
    more = [f"  and {len(places) - _SHOWN:,} more"] if len(places) > _SHOWN else []
    return [f"{len(places):,} rows are {what}", *(f"  {place}" for place in places[:_SHOWN]), *more]
