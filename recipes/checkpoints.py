# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""Going on with a run: from which checkpoint (the newest that was written to its end), and whether there is any need."""

import json
import math
import os
import zipfile
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from transformers import Trainer, TrainerCallback, TrainerState
from transformers.trainer_utils import TrainOutput, sort_checkpoints


def last_complete(output_dir: str, with_optimizer: bool = True, sharded: bool = False) -> str | None:
    """The newest complete `checkpoint-N` in `output_dir`; None where there is none. Says which ones it passes over.

    Args:
        output_dir: of the run.
        with_optimizer: whether the run saves its optimizer (`save_only_model: false`).
        sharded: whether FSDP or DeepSpeed write weights and optimizer, in forms of their own: those are not looked at.
    """
    for checkpoint in reversed(sort_checkpoints(output_dir)):
        fault = find_fault(checkpoint, with_optimizer, sharded)
        if fault is None:
            return checkpoint
        print(f"{checkpoint}: passed over, its saving was cut off ({fault}).")
    return None


def find_fault(checkpoint: str, with_optimizer: bool = True, sharded: bool = False) -> str | None:
    """What a checkpoint lacks to be resumed from, or None.

    Trainer writes the weights, then the optimizer, the schedule and the random states, and `trainer_state.json` last:
    one that can be read tells that the process got that far. A machine that lost power may still have lost the
    contents of earlier files, so that their ends are looked at too.
    """
    folder = Path(checkpoint)
    try:
        TrainerState.load_from_json(str(folder / "trainer_state.json"))
    except (OSError, ValueError, TypeError) as error:
        return f"trainer_state.json: {error}"
    if sharded:
        return None
    names = {path.name for path in folder.glob("*.safetensors")} or {"model.safetensors"}
    index = folder / "model.safetensors.index.json"
    try:
        if index.exists():
            names |= set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        for name in sorted(names):
            with safe_open(folder / name, "np"):  # compares the header with the file's length
                pass
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        return f"weights: {error}"
    # A zip archive, whose index stands at its end.
    if with_optimizer and not zipfile.is_zipfile(folder / "optimizer.pt"):
        return "optimizer.pt: missing or cut short"
    return None


class Epochs(TrainerCallback):
    """Tells the sampler and the dataset which epoch begins. accelerate tells one of them alone, and after a resume in several
    processes neither: the rest of an epoch would follow the order of the first."""

    def on_epoch_begin(self, args, state, control, train_dataloader, **kwargs):
        batches = train_dataloader.batch_sampler
        while hasattr(batches, "batch_sampler"):  # a process's share of the batches, or what a resume has left of them
            batches = batches.batch_sampler
        for each in (batches.sampler, train_dataloader.dataset):
            if hasattr(each, "set_epoch"):
                each.set_epoch(int(state.epoch or 0))


class ResumingTrainer(Trainer):
    """A Trainer whose `resume_from_checkpoint="auto"` goes on from the last complete checkpoint in `output_dir`, if there
    is one. A finished run stays finished: Trainer would take one step more."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.add_callback(Epochs())

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs: Any) -> TrainOutput:
        """Train. "auto" (or true) means the last complete checkpoint in `output_dir`, or the start where there is none.

        Raises:
            ValueError: `resume_from_checkpoint` names a folder that is no complete checkpoint.
        """
        checkpoint = None if resume_from_checkpoint is None else str(resume_from_checkpoint)
        checkpoint = None if checkpoint in ("false", "False") else checkpoint  # over a recipe's auto
        saved = {
            "with_optimizer": not self.args.save_only_model,
            "sharded": self.is_fsdp_enabled or self.is_deepspeed_enabled,
        }
        if checkpoint in ("auto", "true", "True"):
            checkpoint = last_complete(self.args.output_dir, **saved)
        elif checkpoint is not None and (fault := find_fault(checkpoint, **saved)):
            raise ValueError(
                f"resume_from_checkpoint={checkpoint}: no complete checkpoint ({fault}). Name another, or give auto."
            )
        if checkpoint is not None:
            state = TrainerState.load_from_json(os.path.join(checkpoint, "trainer_state.json"))
            if state.global_step >= self.planned_steps():  # Trainer would take one more
                self._say(
                    f"{checkpoint}: all {state.global_step} steps are done; nothing left to train, whatever the data. "
                    "To train anew give another --output_dir, to go on a greater --max_steps."
                )
                self._load_from_checkpoint(checkpoint)
                self.state = state
                return TrainOutput(state.global_step, math.nan, {})
            self._say(
                f"{checkpoint}: going on after step {state.global_step}. To begin anew give another --output_dir."
            )
        return super().train(resume_from_checkpoint=checkpoint, **kwargs)

    def _say(self, text: str) -> None:
        if self.is_world_process_zero():
            print(text)

    def planned_steps(self) -> int:
        """How many optimizer steps the whole run takes."""
        if self.args.max_steps > 0:
            return self.args.max_steps
        batches = len(self.train_dataset) / (self.args.train_batch_size * self.args.world_size)
        batches = math.floor(batches) if self.args.dataloader_drop_last else math.ceil(batches)
        return math.ceil(self.args.num_train_epochs * math.ceil(batches / self.args.gradient_accumulation_steps))
