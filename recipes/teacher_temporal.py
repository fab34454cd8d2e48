# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""A small temporal teacher: V-JEPA 2's architecture, trained on clips by predicting what is masked, in latent space.

```bash
python -m polyv.recipes.teacher_temporal --config recipes/polyv-nano/teacher-temporal.yaml
```

Where V-JEPA 2 itself can be had, it is the better teacher, and there is nothing to train: `polyv teachers cache
--teacher facebook/vjepa2-vitl-fpc64-256`. This one is for the simulated world, of which that one knows nothing, and for
machines without a GPU. It sees pixels alone: no caption, no question, no label.

The method is that of V-JEPA 2 (Assran et al. 2025, section 2): an encoder sees some tokens of a clip, and from what it
makes of them a predictor tells what a slow copy of that encoder makes of the tokens that were hidden. Half of the
batches hide a block of the picture throughout the clip, the others all that comes after a moment. One thing is added:
a hidden token counts by how much its pixels change in time. Before a standing camera nine in ten tokens show the same
floor throughout; told alike, they are all that is learned.
"""

import copy
import glob
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from transformers import (
    TrainerCallback,
    TrainingArguments,
    VJEPA2Config,
    VJEPA2Model,
    VJEPA2VideoProcessor,
    set_seed,
)
from trl import TrlParser

from polyv.recipes.checkpoints import ResumingTrainer
from polyv.recipes.teachers import read_clip


STILL = 0.1
"""What a token counts whose pixels do not change; 1 is the mean of what changes."""


@dataclass
class TemporalArguments:
    """What to train on, and how large a network."""

    videos: list[str] = field(
        metadata={"help": "Video files, or patterns of them such as data/train/scenes/*/video.mp4."}
    )
    frames: int = field(
        default=16, metadata={"help": "Frames of a clip, spread over all of its time; an even number."}
    )
    side: int = field(default=80, metadata={"help": "Width and height of a frame, pixels."})
    patch: int = field(default=10, metadata={"help": "Width and height of a token, pixels."})
    width: int = field(default=192, metadata={"help": "Feature size."})
    layers: int = field(default=6, metadata={"help": "Layers of the encoder."})
    momentum: float = field(default=0.998, metadata={"help": "Of the slow copy, at the start; it rises to 1."})

    def __post_init__(self):
        if self.frames < 2 or self.frames % 2:
            raise ValueError(f"frames={self.frames}: expected an even number of 2 or more, as two make one token.")
        if self.side % self.patch:
            raise ValueError(f"side={self.side}: expected a multiple of patch={self.patch}.")
        if not 0 < self.momentum < 1:
            raise ValueError(f"momentum={self.momentum}: expected a number between 0 and 1.")


def find_files(argument: str, patterns: Sequence[str]) -> list[str]:
    """The paths that `patterns` name, sorted.

    Raises:
        ValueError: a pattern names nothing.
    """
    found: set[str] = set()
    for pattern in patterns:
        paths = glob.glob(pattern, recursive=True)
        if not paths:
            raise ValueError(f"{argument}: {pattern} names nothing that is there.")
        found.update(paths)
    return sorted(found)


class Clips(torch.utils.data.Dataset):
    """Clips as [T, 3, H, W], values as the teacher's processor makes them."""

    def __init__(self, paths: Sequence[str], frames: int, processor: VJEPA2VideoProcessor):
        self.paths, self.frames, self.processor = paths, frames, processor

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"index": index, "clip": read_clip(self.paths[index], self.frames, self.processor)}


class MaskingCollator:
    """Batches clips, each mirrored half of the time, with the tokens that the encoder sees and those it is to tell.

    All clips of a batch hide the same tokens. What is drawn follows from which clips meet in the batch: a run that was
    resumed draws as one that never stopped.

    Args:
        grid: tokens along time, height and width.
    """

    def __init__(self, grid: tuple[int, int, int]):
        self.grid = grid

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        draw = random.Random(str([row["index"] for row in rows]))
        clips = [row["clip"].flip(-1) if draw.random() < 0.5 else row["clip"] for row in rows]
        hidden = self.hide(draw).flatten()
        return {"clips": torch.stack(clips), "seen": (~hidden).nonzero()[:, 0], "hidden": hidden.nonzero()[:, 0]}

    def hide(self, draw: random.Random) -> torch.Tensor:
        """Which tokens are hidden, bool [T, H, W]: the end of the clip, or a block of the picture throughout."""
        time, height, width = self.grid
        hidden = torch.zeros(self.grid, dtype=torch.bool)
        if time > 1 and draw.random() < 0.5:
            hidden[draw.randint(1, max(time // 2, 1)) :] = True
            return hidden
        for _ in range(2):
            rows, columns = (max(1, round(side * draw.uniform(0.4, 0.75))) for side in (height, width))
            top, left = draw.randint(0, height - rows), draw.randint(0, width - columns)
            hidden[:, top : top + rows, left : left + columns] = True
        if hidden.all():
            hidden[:, 0] = False
        return hidden


class LatentPrediction(nn.Module):
    """A V-JEPA 2 model with the slow copy of its encoder that it learns from."""

    def __init__(self, model: VJEPA2Model):
        super().__init__()
        self.model = model
        self.slow = copy.deepcopy(model.encoder).requires_grad_(False)

    def forward(self, clips: torch.Tensor, seen: torch.Tensor, hidden: torch.Tensor) -> dict[str, torch.Tensor]:
        """Clips [B, T, 3, H, W], indices of the tokens seen and hidden → the mean absolute error of what is told of the
        hidden ones, each scaled to mean 0 and variance 1, those that change counting more; and how much features differ
        from clip to clip (0: collapsed)."""
        with torch.no_grad():
            target = self.slow(clips).last_hidden_state.float()
            target = nn.functional.layer_norm(target, target.shape[-1:])
        batch = len(clips)
        seen_BN, hidden_BN = (indices.expand(batch, -1) for indices in (seen, hidden))
        states = self.model.encoder.embeddings(clips)[:, seen]
        for layer in self.model.encoder.layer:
            # The library's encoder takes whole clips only; its layers take positions, as its predictor gives them.
            states = layer(states, seen_BN)[0]
        states = self.model.encoder.layernorm(states)
        whole = states.new_zeros(batch, target.shape[1], states.shape[-1]).index_copy(1, seen, states)
        told = self.model.predictor(whole, [seen_BN], [hidden_BN]).last_hidden_state
        weight = self.change(clips)[:, hidden]
        loss = ((told.float() - target[:, hidden]).abs().mean(-1) * weight).sum() / weight.sum()
        return {"loss": loss, "spread": target.mean(dim=1).std(dim=0).mean().detach()}

    @torch.no_grad()
    def change(self, clips: torch.Tensor) -> torch.Tensor:
        """How much each token's pixels change from frame to frame, beside the mean of all, and a little for those that do
        not: [B, T, 3, H, W] → [B, N]."""
        config = self.model.config
        step = (
            nn.functional.pad(clips.diff(dim=1).abs(), (0, 0, 0, 0, 0, 0, 0, 1)).mean(2, keepdim=True).transpose(1, 2)
        )
        size = (config.tubelet_size, config.patch_size, config.patch_size)
        energy = nn.functional.avg_pool3d(step, size).flatten(1)
        return STILL + energy / energy.mean().clamp(min=1e-6)


class SlowCopy(TrainerCallback):
    """After each step, moves the slow copy a little towards the encoder."""

    def __init__(self, student: LatentPrediction, momentum: float):
        self.student, self.momentum = student, momentum

    @torch.no_grad()
    def on_step_end(self, args, state, control, **kwargs):
        momentum = self.momentum + (1 - self.momentum) * state.global_step / state.max_steps
        for slow, fast in zip(self.student.slow.parameters(), self.student.model.encoder.parameters(), strict=True):
            slow.lerp_(fast, 1 - momentum)


class TemporalTrainer(ResumingTrainer):
    """Logs the spread of the features beside the loss: a loss that falls because all features have become one is none."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._spread: list[float] = []

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        outputs = model(**inputs)
        self._spread.append(outputs["spread"].item())
        return (outputs["loss"], outputs) if return_outputs else outputs["loss"]

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if self._spread:
            logs["spread"] = sum(self._spread) / len(self._spread)
            self._spread = []
        super().log(logs, start_time)


def make_config(arguments: TemporalArguments) -> VJEPA2Config:
    """V-JEPA 2's configuration at a small size."""
    heads = max(arguments.width // 32, 1)
    return VJEPA2Config(
        patch_size=arguments.patch,
        crop_size=arguments.side,
        frames_per_clip=arguments.frames,
        hidden_size=arguments.width,
        num_attention_heads=heads,
        num_hidden_layers=arguments.layers,
        pred_hidden_size=arguments.width // 2,
        pred_num_attention_heads=max(heads // 2, 1),
        pred_num_hidden_layers=max(arguments.layers // 2, 1),
        pred_num_mask_tokens=1,
        pred_zero_init_mask_tokens=False,
    )


def main(argv: list[str] | None = None) -> None:
    """Run the command; `argv` defaults to the process's own arguments."""
    usage = "python -m polyv.recipes.teacher_temporal [--config YAML] [--FIELD VALUE ...]"
    parser = TrlParser(
        (TemporalArguments, TrainingArguments),
        prog="python -m polyv.recipes.teacher_temporal",
        usage=usage,
        allow_abbrev=False,
    )
    arguments, training = parser.parse_args_and_config(argv)
    paths = find_files("videos", arguments.videos)
    set_seed(training.seed)
    print(f"seed {training.seed}, {len(paths)} clips")
    config = make_config(arguments)
    # Eager: for a few hundred tokens it is as fast as sdpa on a CPU.
    model = VJEPA2Model._from_config(config, attn_implementation="eager")
    square = {"height": arguments.side, "width": arguments.side}
    processor = VJEPA2VideoProcessor(size=square, crop_size=square)
    student = LatentPrediction(model)
    cells = arguments.side // arguments.patch
    training.remove_unused_columns = False
    trainer = TemporalTrainer(
        student,
        training,
        data_collator=MaskingCollator((arguments.frames // config.tubelet_size, cells, cells)),
        train_dataset=Clips(paths, arguments.frames, processor),
        callbacks=[SlowCopy(student, arguments.momentum)],
    )
    trainer.train(resume_from_checkpoint=training.resume_from_checkpoint)
    if trainer.is_world_process_zero():
        trainer.save_state()
        model.encoder = student.slow  # it is the better one of the two, and what upstream publishes
        processor.save_pretrained(training.output_dir)
        model.save_pretrained(training.output_dir)  # last: a folder with weights is complete


if __name__ == "__main__":
    main()
