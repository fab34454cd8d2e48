# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""`polyv train STAGE --dry_run`: what the stage would take, from configs alone.

A later stage's recipe begins with what an earlier one writes. Where that is not there yet, the plan is of what the first
stage begins with, upcycled: the same architecture, whose weights do not matter here.
"""

import argparse
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import yaml
from transformers.hf_argparser import string_to_bool
from trl import SFTConfig

from polyv.configuration.configuration_polyv import PolyVConfig, PolyVTextConfig
from polyv.hub.checkpoints import is_run
from polyv.recipes.plan import add_lora, build, plan, to_table
from polyv.recipes.step_memory import Load
from polyv.recipes.synergy import HEADS, SynergyArguments, fit_heads
from polyv.recipes.trainable import set_trainable


if TYPE_CHECKING:
    from polyv.recipes.stage import ModelArguments

FIRST = "caption.yaml"


def is_dry(argv: Sequence[str]) -> bool:
    """Whether a command line, or its recipe, asks for a plan."""
    flags = _read_flags(argv)
    if flags.dry_run is None and flags.config is not None:
        return _read(flags.config).get("dry_run") is True
    return bool(flags.dry_run)


def complete(stage: str, argv: Sequence[str]) -> list[str]:
    """`argv` as a plan needs it: on any machine, and before the stages that come first have run."""
    argv = list(argv)
    if not torch.cuda.is_available():
        argv += ["--use_cpu", "true"]  # a recipe for GPUs is planned anywhere
    flags = _read_flags(argv)
    if flags.config is None or flags.model_name_or_path is not None:
        return argv
    settings, first = _read(flags.config), _read(flags.config.with_name(FIRST))
    start = str(settings.get("model_name_or_path"))
    if not is_run(start) or Path(start).is_dir() or "model_name_or_path" not in first:
        return argv
    origin = str(first["model_name_or_path"])
    argv += ["--model_name_or_path", origin, "--upcycle", "true"]
    if stage == "instruct":  # what it trains has no experts yet
        given = json.loads(flags.model_init_kwargs or "{}") or settings.get("model_init_kwargs") or {}
        argv += ["--model_init_kwargs", json.dumps({**given, "num_experts": 0})]
    print(f"{start} is not there yet: planned as {origin}, upcycled")
    return argv


def print_plan(arguments: "ModelArguments", training: SFTConfig, synergy: SynergyArguments | None) -> None:
    """What the stage would take, on as many GPUs as it was launched on; nothing is loaded but configs.

    Heads of teachers count as the stage would train them: with a cache of its size, without one frozen. Where a cache is
    named that is not there yet, of the size that the config says. Rows are taken to be as long as `Load` says, whatever
    bounds of media are given.

    Raises:
        ValueError: as the stage would, of what its model cannot learn.
    """
    known = {**PolyVConfig.__dataclass_fields__, **PolyVTextConfig.__dataclass_fields__}
    given = training.model_init_kwargs or {}
    dtype = str(given.get("dtype", "float32")).removeprefix("torch.")
    overrides = {name: value for name, value in given.items() if name in known and name != "dtype"}
    start = str(arguments.model_name_or_path or arguments.config_name)
    model = build(start, arguments.upcycle, dtype, _kernels(given.get("attn_implementation")), **overrides)
    caches = {head: getattr(synergy, f"{head}_targets", None) for head in HEADS}
    absent = [head for head, folder in caches.items() if folder and not Path(folder).is_dir()]
    targets = synergy.load(skip=absent) if synergy else {}
    if arguments.trainable != "lora":
        set_trainable(model, arguments.trainable, arguments.freeze_vision)
        fit_heads(model, targets, keep=absent)
    else:
        if not arguments.upcycle:  # where that stands for an earlier stage, its heads are not known
            fit_heads(model, targets, keep=absent, trainable="lora")
        model = add_lora(model, arguments.lora_r)
    load = Load(
        batch_size=training.per_device_train_batch_size, gradient_checkpointing=bool(training.gradient_checkpointing)
    )
    planned = plan(model, training.world_size, launched_strategy(training), load)
    if training.process_index == 0:
        print(f"{start}, {arguments.trainable}; rows of {load.tokens} tokens")
        if otherwise := _otherwise(training, dtype):
            print(f"Planned with AdamW, under bfloat16 autocast; the recipe has {otherwise}, which takes otherwise.")
        print(to_table(planned))


def _kernels(attention: Any) -> Any:
    """Of `attn_implementation`, for each part of the model if it says so, what a plan tells apart: eager attention, which
    keeps its weights, and all others, which keep what sdpa does."""
    if isinstance(attention, dict):
        return {part: _kernels(each) for part, each in attention.items()}
    return "eager" if attention == "eager" else "sdpa"


def _otherwise(training: SFTConfig, dtype: str) -> str:
    """What a recipe says that a plan does not count."""
    optim = str(getattr(training.optim, "value", training.optim))
    said = [] if optim.startswith("adamw_torch") else [f"optim: {optim}"]
    return ", ".join([*said, *(["bf16: false"] if dtype == "float32" and not training.bf16 else [])])


def launched_strategy(training: SFTConfig) -> str:
    """How `accelerate launch`, `torchrun` or the recipe splits the training: one of `polyv.recipes.plan.STRATEGIES`."""
    if training.world_size == 1:
        return "single"
    if training.fsdp or os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true":
        return "fsdp"
    if training.deepspeed or os.environ.get("ACCELERATE_USE_DEEPSPEED", "false").lower() == "true":
        return "zero3" if os.environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE", "3") == "3" else "zero2"
    return "ddp"


def _read_flags(argv: Sequence[str]) -> argparse.Namespace:
    """Of a command line, what decides how to plan."""
    parser = argparse.ArgumentParser("polyv train", add_help=False, allow_abbrev=False)
    parser.add_argument("--config", type=Path)
    parser.add_argument("--model_name_or_path", "--model-name-or-path")
    parser.add_argument("--model_init_kwargs", "--model-init-kwargs")
    parser.add_argument("--dry_run", "--dry-run", type=string_to_bool, nargs="?", const=True)
    return parser.parse_known_args(argv)[0]


def _read(recipe: Path) -> dict[str, Any]:
    """A recipe's fields; none where there is no such file."""
    fields = yaml.safe_load(recipe.read_text(encoding="utf-8")) if recipe.is_file() else None
    return fields if isinstance(fields, dict) else {}  # anything else the parser refuses


__all__ = ["complete", "is_dry", "launched_strategy", "print_plan"]
