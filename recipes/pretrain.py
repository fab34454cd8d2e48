# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""Train on conversations with images, videos and scenes.

```bash
# The dense backbone, from scratch: its config, tokenizer and processor, then its vision tower, then its language model.
python -m polyv.recipes.nano --texts data/train/captions.jsonl data/train/suites.jsonl --out runs/nano-start
python -m polyv.recipes.vision --config recipes/polyv-nano/vision.yaml
polyv train pretrain --config recipes/polyv-nano/pretrain-captions.yaml
polyv train pretrain --config recipes/polyv-nano/pretrain.yaml

# PolyV, upcycled from it.
polyv train pretrain --config recipes/polyv-nano/tune.yaml

# On two CPU cores, a process each, as the published ones were. On GPUs add --use_cpu false.
torchrun --nproc_per_node 2 -m polyv.recipes.pretrain --config recipes/polyv-nano/tune.yaml

# Your own data, starting from any PolyV or Qwen2.5-VL checkpoint. Arguments override the YAML file.
polyv train pretrain --model_name_or_path Qwen/Qwen2.5-VL-3B-Instruct --upcycle --dataset my.jsonl --output_dir out
```

A row of a JSONL file is `{"messages": [{"role": "user", "content": [{"type": "video", "video": "clips/1.mp4"},
{"type": "text", "text": "What falls?"}]}, {"role": "assistant", "content": "the red ball"}]}`, with any number of turns
and of images, videos and scenes; paths are relative to the file. Killed, the same command goes on where
`resume_from_checkpoint: auto` is set.
"""

import inspect
from dataclasses import dataclass, field

import torch
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor, PreTrainedModel, set_seed
from trl import SFTConfig, TrlParser

from polyv.hub.checkpoints import check_name
from polyv.modeling_polyv.modeling_polyv import PolyVForConditionalGeneration
from polyv.processing.processing_polyv import PolyVProcessor
from polyv.recipes.collator import ConversationCollator
from polyv.recipes.data import read_mixture
from polyv.recipes.trainer import PolyVTrainer


@dataclass
class ModelArguments:
    """What to train: weights to start from, or only a config."""

    model_name_or_path: str | None = field(
        default=None, metadata={"help": "PolyV or Qwen2.5-VL checkpoint to start from. A Qwen2.5-VL stays dense."}
    )
    config_name: str | None = field(
        default=None, metadata={"help": "Folder with config and processor to train from scratch, in place of weights."}
    )
    upcycle: bool = field(default=False, metadata={"help": "Turn a dense Qwen2.5-VL checkpoint into a PolyV."})
    freeze_vision: bool = field(
        default=False,
        metadata={"help": "Keep the vision encoder's weights; its projection (the merger) still trains."},
    )

    def __post_init__(self):
        if (self.model_name_or_path is None) == (self.config_name is None):
            raise ValueError(
                f"model_name_or_path={self.model_name_or_path} and config_name={self.config_name}: give one of the two, "
                "the first to start from weights, the second to train from scratch."
            )
        for argument in ("model_name_or_path", "config_name"):
            if (name := getattr(self, argument)) is not None:
                check_name(argument, name)
        if self.upcycle and self.config_name:
            raise ValueError("upcycle: there are no weights to upcycle from a config_name; give model_name_or_path.")


@dataclass
class DataArguments:
    """What to train on."""

    dataset: list[str] = field(
        default_factory=list, metadata={"help": "JSONL files, or names of datasets with a 'messages' column."}
    )
    dataset_weights: list[float] | None = field(
        default=None, metadata={"help": "How often to draw from each dataset. Without it they are concatenated."}
    )

    def __post_init__(self):
        if not self.dataset:
            raise ValueError("dataset: got none. Give one or more JSONL files of conversations, or names on the Hub.")


def load_model(arguments: ModelArguments, training: SFTConfig) -> PreTrainedModel:
    """The model in float32 (unless `model_init_kwargs` says another dtype): loaded, upcycled, or with fresh weights."""
    kwargs = {"dtype": torch.float32, **(training.model_init_kwargs or {})}
    if arguments.config_name is not None:
        config = AutoConfig.from_pretrained(arguments.config_name)
        model = AutoModelForImageTextToText.from_config(config, **kwargs)
    else:
        loader = PolyVForConditionalGeneration if arguments.upcycle else AutoModelForImageTextToText
        model = loader.from_pretrained(arguments.model_name_or_path, **kwargs)
    # No loss here trains them; and weights without a gradient stop processes that train together.
    for head in (getattr(model, "temporal_head", None), getattr(model, "spatial_head", None)):
        if head is not None:
            head.requires_grad_(False)
    if arguments.freeze_vision:
        visual = model.get_encoder(modality="image")
        visual.requires_grad_(False)
        visual.merger.requires_grad_(True)
    return model


def main(argv: list[str] | None = None) -> None:
    """Run the command; `argv` defaults to the process's own arguments."""
    # Its own usage would be one of 140 lines, printed with every mistake; `--help` lists all fields anyway.
    usage = "polyv train pretrain [--config YAML] [--FIELD VALUE ...]"
    parser = TrlParser((ModelArguments, DataArguments, SFTConfig), prog="polyv train pretrain", usage=usage)
    arguments, data, training = parser.parse_args_and_config(argv)
    set_seed(training.seed)
    print(f"seed {training.seed}")
    start = arguments.model_name_or_path or arguments.config_name

    model = load_model(arguments, training)
    training.model_init_kwargs = None  # used; SFTTrainer would warn that it cannot use it
    is_polyv = isinstance(model, PolyVForConditionalGeneration)
    reader = PolyVProcessor.from_pretrained(start, add_synergy=is_polyv)
    trainer = PolyVTrainer(
        model,
        training,
        train_dataset=read_mixture(data.dataset, data.dataset_weights, training.seed),
        data_collator=ConversationCollator(reader, accepts=inspect.signature(model.forward).parameters),
        # A dense model's folder stays plain Qwen2.5-VL, to be read without this package.
        processing_class=reader if is_polyv else AutoProcessor.from_pretrained(start),
        datasets=data.dataset,
        base_model=arguments.model_name_or_path,
    )
    trainer.train(resume_from_checkpoint=training.resume_from_checkpoint)
    trainer.save_model()
    trainer.create_model_card()
    trainer.save_state()


if __name__ == "__main__":
    main()
