# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""From rows to training batches: media read, answers masked, rows of one length together."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from datasets import Dataset
from torch.utils.data import Sampler
from tqdm import tqdm
from transformers import ProcessorMixin

from polyv.processing.processing_polyv import PolyVProcessor
from polyv.recipes.rows import RowError, read_messages


IGNORED = -100


@dataclass
class MediaArguments:
    """How large a model sees its media. What is left out stays as the checkpoint's processor has it; what is given is saved
    with the checkpoint that a training writes, so that it answers as it was trained."""

    image_max_pixels: int | None = field(
        default=None, metadata={"help": "Pixels of an image, at most; a larger one is scaled down."}
    )
    video_max_pixels: int | None = field(default=None, metadata={"help": "Pixels of a video's frame, at most."})
    video_max_frames: int | None = field(default=None, metadata={"help": "Frames of a video, at most."})
    video_fps: float | None = field(default=None, metadata={"help": "Frames of a second of video."})
    scene_max_pixels: int | None = field(default=None, metadata={"help": "Pixels of a scene's view, at most."})
    scene_max_views: int | None = field(default=None, metadata={"help": "Views of a scene, at most."})

    def __post_init__(self):
        patch = 28 * 28
        for name, least in {
            "image_max_pixels": patch,
            "video_max_pixels": patch,
            "video_max_frames": 2,
            "video_fps": 0.01,
            "scene_max_pixels": patch,
            "scene_max_views": 1,
        }.items():
            if (value := getattr(self, name)) is not None and value < least:
                raise ValueError(f"{name}={value}: expected {least} or more.")

    def bound(self, processor: ProcessorMixin) -> None:
        """Set what is given in a PolyV's or a Qwen2.5-VL's `processor`."""
        for part, pixels in (
            (processor.image_processor, self.image_max_pixels),
            (processor.video_processor, self.video_max_pixels),
        ):
            if pixels is not None:
                least = min(part.size["shortest_edge"], pixels)
                part.size = type(part.size)(longest_edge=pixels, shortest_edge=least)
        for name, value in (("max_frames", self.video_max_frames), ("fps", self.video_fps)):
            if value is not None:
                setattr(processor.video_processor, name, value)
        if isinstance(processor, PolyVProcessor):
            settings = dict(processor.scenes_kwargs)
            if self.scene_max_pixels is not None:
                least = settings["min_pixels"]
                settings["max_pixels"] = self.scene_max_pixels
                settings["min_pixels"] = None if least is None else min(least, self.scene_max_pixels)
            if self.scene_max_views is not None:
                settings["num_views"] = self.scene_max_views
            processor.scenes_kwargs = settings


class ConversationCollator:
    """Batches conversations; only answers are targets.

    `labels` [B, T] holds the text of every assistant turn and the `<|im_end|>` that closes it; all else is -100:
    media, questions, and the `<synergy>` that opens a turn. Batches may mix rows with images, videos, scenes, several
    of them, or none.

    Args:
        processor: reads the media. With `add_synergy=False` the batch is a plain Qwen2.5-VL's.
        accepts: the arguments of the model's `forward`; what it does not take is left out (`image_coords`, for a
            model without a coordinate encoding: a scene is then its views as images).

    Raises:
        RowError: a medium cannot be read.
    """

    def __init__(self, processor: PolyVProcessor, accepts: Iterable[str]):
        self.processor = processor
        self.accepts = frozenset(accepts)
        tokenizer = processor.tokenizer
        # The token after these is the line break: by its position, as an answer's own line breaks could merge with it.
        self.opening = tokenizer.encode("<|im_start|>assistant", add_special_tokens=False)
        self.closing = tokenizer.convert_tokens_to_ids("<|im_end|>")

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        try:
            batch = self.encode(rows)
        except (ValueError, OSError, TypeError) as error:
            self._blame(rows)
            raise error
        batch["labels"] = self.mask(batch["input_ids"])
        return {key: value for key, value in batch.items() if key in self.accepts}

    def encode(self, rows: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """The processor's tensors for `rows`, padded on the right."""
        return dict(
            self.processor.apply_chat_template(
                [read_messages(row) for row in rows],
                tokenize=True,
                return_dict=True,
                return_tensors="pt",
                padding=True,
                padding_side="right",
            )
        )

    def mask(self, input_ids: torch.Tensor) -> torch.Tensor:
        """`input_ids` [B, T] with -100 outside the answers."""
        labels = torch.full_like(input_ids, IGNORED)
        for label, ids in zip(labels, input_ids, strict=True):
            for start, end in self._answers(ids.tolist()):
                label[start:end] = ids[start:end]
        return labels

    def _answers(self, ids: list[int]) -> Iterator[tuple[int, int]]:
        length, synergy = len(self.opening), self.processor.synergy_token_id
        for index in range(len(ids) - length):
            if ids[index] == self.opening[0] and ids[index : index + length] == self.opening:
                start = index + length + 1
                while ids[start] == synergy:
                    start += 1
                yield start, ids.index(self.closing, start) + 1

    def _blame(self, rows: Sequence[dict[str, Any]]) -> None:
        """Name the row of a batch that cannot be encoded."""
        for row in rows:
            try:
                self.encode([row])
            except RowError:  # it names the row
                raise
            except (ValueError, OSError, TypeError) as error:
                raise RowError(f"{row.get('source', 'a row')}: {error}") from error

    def lengths(self, dataset: Dataset) -> list[int]:
        """About how many tokens each row takes: its texts', and the rest as in the first row with as many turns and
        the same kinds of media. Without it, all media of the dataset would have to be read."""
        rest: dict[tuple, int] = {}
        known: dict[str, int] = {}  # a mixture repeats its shorter parts, many times
        lengths = []
        for index, text in enumerate(tqdm(dataset["messages"], desc="lengths of rows", disable=None)):
            if text not in known:
                known[text] = self._length(json.loads(text), rest, partial(dataset.__getitem__, index))
            lengths.append(known[text])
        return lengths

    def _length(
        self, messages: list[dict[str, Any]], rest: dict[tuple, int], read: Callable[[], dict[str, Any]]
    ) -> int:
        entries = [entry for message in messages for entry in message["content"]]
        likeness = (len(messages), *(entry["type"] for entry in entries))
        text = " ".join(entry["text"] for entry in entries if entry["type"] == "text")
        tokens = len(self.processor.tokenizer.encode(text))
        if likeness not in rest:
            rest[likeness] = self([read()])["input_ids"].shape[1] - tokens
        return rest[likeness] + tokens


class EvenBatches(Sampler[int]):
    """Shuffles so that each run of `batch_size` rows is of about one length, and follows from seed and epoch alone.

    The library's `LengthGroupedSampler` draws from the global generator: a run resumed in its second epoch would see
    other batches than one that was never stopped. It also puts the longest of 50 batches first, so that those of one
    gradient accumulation resemble each other; here batches are shuffled after grouping.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int):
        self.lengths = torch.as_tensor(lengths)
        self.batch_size, self.seed, self.epoch = batch_size, seed, 0

    def __len__(self) -> int:
        return len(self.lengths)

    def set_epoch(self, epoch: int) -> None:
        """Called at the start of each epoch, see `polyv.recipes.checkpoints.Epochs`."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed * 100_003 + self.epoch)
        order = torch.randperm(len(self), generator=generator)
        batches: list[torch.Tensor] = []
        for group in order.split(50 * self.batch_size):
            batches += group[self.lengths[group].argsort(stable=True)].split(self.batch_size)
        # A short batch must come last: anywhere else it would shift the ones after it.
        tail = [batches.pop()] if len(batches[-1]) < self.batch_size else []
        shuffled = [batches[i] for i in torch.randperm(len(batches), generator=generator)]
        yield from torch.cat([*shuffled, *tail]).tolist()
