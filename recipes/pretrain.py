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

from trl import SFTConfig

from polyv.recipes.stage import DataArguments, ModelArguments, parse, run


def main(argv: list[str] | None = None) -> None:
    """Run the command; `argv` defaults to the process's own arguments."""
    run(*parse("pretrain", (ModelArguments, DataArguments, SFTConfig), argv))


if __name__ == "__main__":
    main()
