# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""polyv-nano-backbone's first phase: its vision tower learns to find objects, before any word is read or written.

```bash
python -m polyv.recipes.vision --config recipes/polyv-nano/vision.yaml
```

What a caption says of an object (shape, colour, size, place in the picture) is asked here of every visual token that
the object covers, by linear heads that are thrown away afterwards. A caption tells all this through a language model
that cannot read yet; told directly, a tower of this size needs minutes. It is told more exactly, too: the box to the
pixel, where captions name one of 64 squares, and of objects that captions leave out as too small or half hidden. Never
depth, distance or motion.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageOps
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    AutoProcessor,
    EvalPrediction,
    Qwen2VLImageProcessor,
    TrainingArguments,
    set_seed,
)
from trl import TrlParser

from polyv.hub.checkpoints import check_name
from polyv.processing.processing_polyv import PolyVProcessor
from polyv.recipes.checkpoints import ResumingTrainer
from polyv.recipes.collator import IGNORED
from polyv.recipes.trainer import keep_scene_settings
from polyv.world.make import load_records
from polyv.world.physics import FURNITURE
from polyv.world.records import Appearance, WorldObject, WorldRecord
from polyv.world.scenes import COLOURS, SHAPES


NOTHING = "nothing"
CLASSES: dict[str, tuple[str, ...]] = {
    "shape": (NOTHING, *SHAPES, *FURNITURE),
    "colour": COLOURS,
    "size": ("small", "large"),
    "centre": ("no", "yes"),
}
# Of an object's silhouette, how much must show for its classes to be asked; below, its tokens are asked for its box alone.
CLEAR = 0.5
# Of a token's cell, how much an object's box must cover to be what the token shows.
COVERED = 0.5


@dataclass
class Seen:
    """An object in a picture: box [4] as fractions of the picture's width and height, and an index of each class."""

    box: tuple[float, float, float, float]
    shape: int
    colour: int
    size: int
    clear: bool


def seen_in(objects: Sequence[WorldObject], looks: Sequence[Appearance], width: int, height: int) -> list[Seen]:
    """What of `objects` shows in one picture, in which they look like `looks`."""
    found = []
    for thing, look in zip(objects, looks, strict=True):
        if look.box is None:
            continue
        x0, y0, x1, y1 = look.box
        size, colour = thing.attributes.get("size"), thing.attributes["colour"]
        found.append(
            Seen(
                (x0 / width, y0 / height, x1 / width, y1 / height),
                CLASSES["shape"].index(thing.category),
                COLOURS.index(colour) if colour in COLOURS else IGNORED,
                CLASSES["size"].index(size) if size else IGNORED,
                (look.visible or 0.0) >= CLEAR,
            )
        )
    return found


def label_tokens(seen: Sequence[Seen], rows: int, columns: int) -> dict[str, torch.Tensor]:
    """What each of `rows`×`columns` visual tokens of a picture shows.

    A token shows the object whose box's middle lies in its cell, else one whose box covers half of the cell; of
    several the smallest, as it stands in front or would be lost.

    Returns:
        "shape", "colour", "size", "centre": class indices [rows * columns], -100 where there is nothing to ask.
        "box": [rows * columns, 4], from the middle of the cell to the box's left, top, right and bottom, in cells;
        NaN where the token shows nothing.
    """
    labels = {name: torch.full((rows, columns), IGNORED) for name in CLASSES}
    labels["shape"][:] = labels["centre"][:] = 0
    box = torch.full((rows, columns, 4), torch.nan)
    y, x = torch.meshgrid(torch.arange(rows) + 0.5, torch.arange(columns) + 0.5, indexing="ij")

    def area(thing: Seen) -> float:
        return (thing.box[2] - thing.box[0]) * (thing.box[3] - thing.box[1])

    # From large to small, boxes before middles: later ones overwrite earlier ones.
    in_order = sorted(seen, key=area, reverse=True)
    for step in ("box", "middle"):
        for thing in in_order:
            x0, y0, x1, y1 = (edge * side for edge, side in zip(thing.box, (columns, rows) * 2, strict=True))
            if step == "box":
                wide = (torch.clamp(x + 0.5, max=x1) - torch.clamp(x - 0.5, min=x0)).clamp(min=0)
                high = (torch.clamp(y + 0.5, max=y1) - torch.clamp(y - 0.5, min=y0)).clamp(min=0)
                cells = wide * high >= COVERED
            else:
                cells = torch.zeros(rows, columns, dtype=torch.bool)
                cells[min(int((y0 + y1) / 2), rows - 1), min(int((x0 + x1) / 2), columns - 1)] = True
                labels["centre"][cells] = 1 if thing.clear else IGNORED
            for name in ("shape", "colour", "size"):
                labels[name][cells] = getattr(thing, name) if thing.clear else IGNORED
            box[cells] = torch.stack([x - x0, y - y0, x1 - x, y1 - y], -1)[cells]
    return {**{name: label.flatten() for name, label in labels.items()}, "box": box.flatten(0, 1)}


class Pictures(torch.utils.data.Dataset):
    """All still pictures of a world: each scene's image, the one from the moved camera, and its views."""

    def __init__(self, world: str | Path, records: Sequence[WorldRecord]):
        self.shots = [
            (Path(world) / path, seen_in(record.objects, looks, camera.width, camera.height))
            for record in records
            for path, camera, looks in record.stills()
        ]

    def __len__(self) -> int:
        return len(self.shots)

    def __getitem__(self, index: int) -> dict[str, Any]:
        path, seen = self.shots[index]
        with Image.open(path) as picture:
            return {"index": index, "picture": picture.convert("RGB"), "seen": seen}


class PictureCollator:
    """Batches pictures at one of several sizes, half of them mirrored.

    Both are drawn by which pictures meet in the batch: a run that was resumed draws as one that never stopped.
    """

    def __init__(self, processor: Qwen2VLImageProcessor, sides: Sequence[int], augment: bool = True):
        self.processor, self.sides, self.augment = processor, sides, augment

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        draw = random.Random(str([row["index"] for row in rows]))
        side = draw.choice(self.sides) if self.augment else self.sides[0]
        pictures, labels = [], []
        cells = side // (self.processor.patch_size * self.processor.merge_size)
        for row in rows:
            picture, seen = row["picture"], row["seen"]
            if self.augment and draw.random() < 0.5:
                picture = ImageOps.mirror(picture)
                seen = [replace(s, box=(1 - s.box[2], s.box[1], 1 - s.box[0], s.box[3])) for s in seen]
            pictures.append(picture.resize((side, side), Image.Resampling.BICUBIC))
            labels.append(label_tokens(seen, cells, cells))
        pixels = self.processor(pictures, do_resize=False, return_tensors="pt")
        return {
            "pixel_values": pixels["pixel_values"],
            "image_grid_thw": pixels["image_grid_thw"],
            **{name: torch.stack([label[name] for label in labels]) for name in labels[0]},
        }


class TokenReader(nn.Module):
    """A Qwen2.5-VL vision tower with a linear head for each thing that its output tokens are asked."""

    def __init__(self, visual: nn.Module, width: int):
        super().__init__()
        self.visual = visual
        self.heads = nn.ModuleDict({name: nn.Linear(width, len(words)) for name, words in CLASSES.items()})
        self.box = nn.Linear(width, 4)

    def forward(self, pixel_values, image_grid_thw, shape, colour, size, centre, box) -> dict[str, torch.Tensor]:
        """The logits of each head, [pictures, tokens, classes], and the loss: each head's mean over what it is asked."""
        states = self.visual(pixel_values, grid_thw=image_grid_thw).pooler_output
        states = states.unflatten(0, (len(image_grid_thw), -1))
        logits = {name: head(states).float() for name, head in self.heads.items()}
        shown = ~box.isnan().any(-1)
        offsets = nn.functional.smooth_l1_loss(self.box(states).float()[shown], box[shown], reduction="sum")
        loss = offsets / (4 * shown.sum()).clamp(min=1)
        for name, labels in {"shape": shape, "colour": colour, "size": size, "centre": centre}.items():
            wrong = nn.functional.cross_entropy(
                logits[name].flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="sum"
            )
            loss = loss + wrong / (labels != IGNORED).sum().clamp(min=1)
        return {"loss": loss, **logits}


def accuracies(predicted: EvalPrediction) -> dict[str, float]:
    """Accuracy of each head where it is asked; of shapes and middles, over the tokens that show one: most show none."""
    found = {}
    for name, logits, labels in zip(CLASSES, predicted.predictions, predicted.label_ids, strict=True):
        asked = labels > 0 if name in ("shape", "centre") else labels != IGNORED
        found[name] = float((logits.argmax(-1)[asked] == labels[asked]).mean()) if asked.any() else float("nan")
    return found


@dataclass
class VisionArguments:
    """What to train on, and what to start from."""

    world: str = field(metadata={"help": "Folder that `polyv world make` wrote."})
    config_name: str = field(metadata={"help": "Folder with config, tokenizer and processor (polyv.recipes.nano)."})
    sides: list[int] = field(
        default_factory=lambda: [112, 80, 64],
        metadata={"help": "Sides of the pictures in pixels, drawn per batch; measured with the first."},
    )
    held_out: int = field(default=40, metadata={"help": "Scenes kept from training, to measure on."})


def main(argv: list[str] | None = None) -> None:
    """Run the command; `argv` defaults to the process's own arguments."""
    usage = "python -m polyv.recipes.vision [--config YAML] [--FIELD VALUE ...]"
    kinds = (VisionArguments, TrainingArguments)
    parser = TrlParser(kinds, prog="python -m polyv.recipes.vision", usage=usage, allow_abbrev=False)
    arguments, training = parser.parse_args_and_config(argv)
    check_name("config_name", arguments.config_name)
    records = load_records(arguments.world)
    _check(arguments, training, records)
    set_seed(training.seed)
    print(f"seed {training.seed}")
    processor = AutoProcessor.from_pretrained(arguments.config_name)
    images = processor.image_processor
    scenes_kwargs = PolyVProcessor.from_pretrained(arguments.config_name, add_synergy=False).scenes_kwargs
    cell = images.patch_size * images.merge_size
    if not arguments.sides or any(side < cell or side % cell for side in arguments.sides):
        raise ValueError(f"sides: got {arguments.sides}, expected one or more multiples of {cell} pixels.")
    config = AutoConfig.from_pretrained(arguments.config_name)
    # Eager: for the few tokens of a small picture it is faster than sdpa on a CPU.
    model = AutoModelForImageTextToText.from_config(config, dtype=torch.float32, attn_implementation="eager")
    training.remove_unused_columns, training.label_names = False, list(CLASSES)
    trainer = ResumingTrainer(
        TokenReader(model.model.visual, config.vision_config.out_hidden_size),
        training,
        data_collator=PictureCollator(images, arguments.sides),
        train_dataset=Pictures(arguments.world, records[arguments.held_out :]),
        compute_metrics=accuracies,
    )
    trainer.train(resume_from_checkpoint=training.resume_from_checkpoint)
    trainer.data_collator = PictureCollator(images, arguments.sides, augment=False)
    measured = trainer.evaluate(Pictures(arguments.world, records[: arguments.held_out]))
    if trainer.is_world_process_zero():
        trainer.save_metrics("eval", measured, combined=False)
        print(", ".join(f"{name} {measured[f'eval_{name}']:.3f}" for name in CLASSES))
        processor.save_pretrained(training.output_dir)
        keep_scene_settings(training.output_dir, scenes_kwargs)
        model.save_pretrained(training.output_dir)  # last: a folder with weights is complete


def _check(arguments: VisionArguments, training: TrainingArguments, records: Sequence[WorldRecord]) -> None:
    if training.max_steps < 1:
        raise ValueError(
            f"max_steps: got {training.max_steps}, expected 1 or more; give it in the file or as --max_steps."
        )
    if records[0].split != "train":
        raise ValueError(
            f"world: {arguments.world} is of the {records[0].split} split, expected train. Make one with "
            "`polyv world make --split train`."
        )
    if not 0 < arguments.held_out < len(records):
        raise ValueError(
            f"held_out: got {arguments.held_out} of the {len(records)} scenes of {arguments.world}; expected some, "
            "not all."
        )


if __name__ == "__main__":
    main()
