# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""Which checkpoint of a run to go on from: the newest that was written to its end."""

import json
import zipfile
from pathlib import Path

from safetensors import SafetensorError, safe_open
from transformers import TrainerState
from transformers.trainer_utils import sort_checkpoints


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


def steps_of(checkpoint: str) -> int:
    """After how many optimizer steps a checkpoint was saved."""
    return TrainerState.load_from_json(str(Path(checkpoint) / "trainer_state.json")).global_step
