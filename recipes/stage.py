# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""What the scripts of all stages share: their arguments, and the run from a checkpoint and data to a checkpoint."""

import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import yaml
from datasets import Dataset
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor, PreTrainedModel, set_seed
from trl import SFTConfig, TrlParser

from polyv.hub.adapters import check_whole, require_peft
from polyv.hub.checkpoints import check_name, is_run
from polyv.modeling_polyv.modeling_polyv import PolyVForConditionalGeneration
from polyv.processing.processing_polyv import PolyVProcessor
from polyv.recipes.collator import ConversationCollator, MediaArguments
from polyv.recipes.data import check_sources, read_mixture, refuse_silent
from polyv.recipes.dry_run import complete, is_dry, print_plan
from polyv.recipes.synergy import SynergyArguments, SynergyCollator, SynergyTrainer, fit_heads
from polyv.recipes.targets import Targets
from polyv.recipes.trainable import WORDS, lora_config, set_trainable
from polyv.recipes.trainer import PolyVTrainer, check_fields


@dataclass
class ModelArguments:
    """What to train: weights to start from, or only a config."""

    model_name_or_path: str | None = field(
        default=None,
        metadata={"help": "Whole PolyV or Qwen2.5-VL checkpoint to start from. A Qwen2.5-VL stays dense."},
    )
    config_name: str | None = field(
        default=None, metadata={"help": "Folder with config and processor to train from scratch, in place of weights."}
    )
    upcycle: bool = field(default=False, metadata={"help": "Turn a dense Qwen2.5-VL checkpoint into a PolyV."})
    trainable: str = field(default="full", metadata={"help": f"What trains: one of {', '.join(WORDS)}."})
    lora_r: int = field(default=16, metadata={"help": "Rank of what trainable: lora adds."})
    lora_alpha: int = field(default=32, metadata={"help": "Its scale, times the rank."})
    freeze_vision: bool = field(
        default=False,
        metadata={
            "help": "Of trainable: full, keep the vision encoder's weights; its projection (the merger) still trains. "
            "Other words never train the encoder."
        },
    )
    compile_layers: bool = field(
        default=False, metadata={"help": "Compile the language model's layers, by torch.compile: on CPUs it pays."}
    )
    dry_run: bool = field(
        default=False, metadata={"help": "Build the model without weights, print what training it takes, and end."}
    )

    def __post_init__(self):
        if (self.model_name_or_path is None) == (self.config_name is None):
            raise ValueError(
                f"model_name_or_path={self.model_name_or_path} and config_name={self.config_name}: give one of the two, "
                "the first to start from weights, the second to train from scratch."
            )
        for argument in ("model_name_or_path", "config_name"):
            # Before any complaint about other arguments; a recipe may name what an earlier stage is yet to write.
            if (name := getattr(self, argument)) is not None and not is_run(name):
                check_name(argument, name)
        if self.upcycle and self.config_name:
            raise ValueError("upcycle: there are no weights to upcycle from a config_name; give model_name_or_path.")
        if self.trainable not in WORDS:
            raise ValueError(f"trainable={self.trainable!r}: expected one of {', '.join(WORDS)}.")
        if self.lora_r < 1:
            raise ValueError(f"lora_r={self.lora_r}: expected 1 or more.")
        if self.trainable == "lora":
            self._check_lora()

    def _check_lora(self) -> None:
        require_peft("trainable='lora'")
        if self.config_name:
            raise ValueError(
                f"trainable='lora': an adapter holds only what it adds, and the fresh weights of config_name={self.config_name} "
                "would be lost. Train those in full first (trainable: full), and give model_name_or_path."
            )
        # A plan may: later stages are planned as what the first one begins with, upcycled.
        if self.upcycle and not self.dry_run:
            raise ValueError(
                "trainable='lora': an adapter holds only what it adds, and the weights that upcycle: true makes would be lost. "
                f"Run `polyv upcycle {self.model_name_or_path} DST` first, and train from DST without upcycle. What is "
                "a PolyV already needs none."
            )


@dataclass
class DataArguments(MediaArguments):
    """What to train on, and how large it is seen."""

    dataset: list[str] = field(
        default_factory=list,
        metadata={"help": "JSONL files, or datasets (names on the Hub, or folders) with a column 'messages'."},
    )
    dataset_weights: list[float] | None = field(
        default=None, metadata={"help": "How often to draw from each dataset. Without it they are concatenated."}
    )

    def __post_init__(self):
        super().__post_init__()
        if not self.dataset:
            raise ValueError("dataset: got none. Give one or more JSONL files of conversations, or names on the Hub.")


class RecipeParser(TrlParser):
    """TrlParser, with one value in a recipe for a field of several (`dataset: mine.jsonl`) as on the command line."""

    def set_defaults_with_config(self, **kwargs: Any) -> list[str]:
        several = {action.dest for action in self._actions if action.nargs == "+"}
        given = {
            name: [value] if name in several and isinstance(value, (str, int, float)) else value
            for name, value in kwargs.items()
        }
        return super().set_defaults_with_config(**given)


def parse(stage: str, kinds: tuple[type, ...], argv: list[str] | None) -> tuple[Any, ...]:
    """The arguments of `polyv train STAGE`, from a recipe and the command line; unknown keys are refused."""
    # Its own usage would be one of 140 lines, printed with every mistake; `--help` lists the fields anyway.
    usage = f"polyv train {stage} [--config YAML] [--FIELD VALUE ...]"
    argv = sys.argv[1:] if argv is None else argv
    try:
        argv = complete(stage, argv) if is_dry(argv) else argv
        # A mistyped field must not pass for another that begins alike.
        parser = RecipeParser(kinds, prog=f"polyv train {stage}", usage=usage, allow_abbrev=False)
        return parser.parse_args_and_config(argv)
    except yaml.YAMLError as error:
        raise ValueError(f"config: the recipe is not YAML: {' '.join(str(error).split())}.") from error


def load_model(
    arguments: ModelArguments, training: SFTConfig, targets: dict[str, Targets] | None = None
) -> PreTrainedModel:
    """The model in float32 (unless `model_init_kwargs` says another dtype): loaded, upcycled, or with fresh weights;
    frozen but for what `arguments.trainable` names, with synergy heads for `targets`."""
    kwargs = {"dtype": torch.float32, **(training.model_init_kwargs or {})}
    if arguments.config_name is not None:
        config = AutoConfig.from_pretrained(arguments.config_name)
        model = AutoModelForImageTextToText.from_config(config, **kwargs)
    else:
        loader = PolyVForConditionalGeneration if arguments.upcycle else AutoModelForImageTextToText
        model = loader.from_pretrained(arguments.model_name_or_path, **kwargs)
        # What saving reverses: under ZeRO-3 transformers also notes the renamings that renamed nothing.
        model._weight_conversions = [each for each in model._weight_conversions if each.was_used()]
    set_trainable(model, arguments.trainable, arguments.freeze_vision)
    fit_heads(model, targets or {}, trainable=arguments.trainable)
    if arguments.compile_layers:
        # Not `torch_compile`: media make a graph of the whole model break and recompile with each batch.
        for layer in model.get_decoder().layers:
            layer.compile(dynamic=True)
    return model


def run(
    arguments: ModelArguments,
    data: DataArguments,
    training: SFTConfig,
    synergy: SynergyArguments | None = None,
    keep: Callable[[Dataset], Dataset] | None = None,
    rows_of: str | None = None,
) -> None:
    """Train, and write the checkpoint with its card.

    Args:
        synergy: what `<synergy>` is to foresee, in the stages that teach it.
        keep: picks the rows that the stage trains on.
        rows_of: the modality that these are of, for the card.
    """
    start = str(arguments.model_name_or_path or arguments.config_name)
    check_whole("model_name_or_path" if arguments.model_name_or_path else "config_name", start)
    check_fields(training)
    if arguments.dry_run:
        print_plan(arguments, training, synergy)
        return
    check_sources(data.dataset)
    set_seed(training.seed)
    print(f"seed {training.seed}")
    rows = read_mixture(data.dataset, data.dataset_weights, training.seed)  # before weights: 7B take minutes
    rows = keep(rows) if keep else rows
    targets = synergy.load() if synergy else {}
    if not targets:
        refuse_silent(rows)
    model = load_model(arguments, training, targets)
    training.model_init_kwargs = None  # used; SFTTrainer would warn that it cannot use it
    is_polyv = isinstance(model, PolyVForConditionalGeneration)
    # An upcycled model's settings are not yet in a file for the processor to read.
    synergy_kwargs = {"num_synergy_tokens": model.config.num_synergy_tokens} if is_polyv else {"add_synergy": False}
    reader = PolyVProcessor.from_pretrained(start, **synergy_kwargs)
    # A dense model's folder stays plain Qwen2.5-VL, to be read without this package.
    saved = reader if is_polyv else AutoProcessor.from_pretrained(start)
    for processor in (reader, saved):
        data.bound(processor)
    accepts = inspect.signature(model.forward).parameters
    common: dict[str, Any] = dict(
        train_dataset=rows,
        processing_class=saved,
        datasets=data.dataset,
        base_model=arguments.model_name_or_path,
        stage=describe(arguments, targets, rows_of),
        peft_config=(
            lora_config(model, arguments.lora_r, arguments.lora_alpha) if arguments.trainable == "lora" else None
        ),
    )
    trainer: PolyVTrainer
    if synergy is None:
        trainer = PolyVTrainer(model, training, data_collator=ConversationCollator(reader, accepts), **common)
    else:
        collator = SynergyCollator(reader, accepts, targets, synergy.student_sees)
        collator.check(rows)
        trainer = SynergyTrainer(
            model, training, data_collator=collator, coarse_weight=synergy.coarse_weight, **common
        )
    trainer.train(resume_from_checkpoint=training.resume_from_checkpoint)
    trainer.save_model()
    trainer.create_model_card()
    trainer.save_state()


def describe(arguments: ModelArguments, targets: dict[str, Targets], rows_of: str | None = None) -> str:
    """For the card, what trained, of which rows, and by which teachers."""
    told = f"What trained (`{arguments.trainable}`): {WORDS[arguments.trainable]}"
    told += ", without the vision encoder." if arguments.freeze_vision and arguments.trainable == "full" else "."
    if rows_of:
        told += f" Of the data, the rows about {rows_of}s alone."
    for head, cache in targets.items():
        told += (
            f" `<synergy>` learned to foresee what {cache.teacher} makes of {cache.modality}s ({head}: {cache.num_regions} "
            f"regions, {cache.size} numbers each)."
        )
    return told


__all__ = ["DataArguments", "ModelArguments", "load_model", "parse", "run"]
