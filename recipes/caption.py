# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""Stage 1a: captions connect vision and language. The projection and the new encodings train, all else is frozen.

```bash
polyv train caption --config recipes/polyv-nano/caption.yaml
polyv train caption --config recipes/polyv-7b/caption.yaml --dataset captions.jsonl
```

Rows are those of `polyv train pretrain`. With `upcycle: true` and `model_init_kwargs: {num_experts: 0}` a Qwen2.5-VL
becomes a dense PolyV: itself, with `<synergy>` and the encodings, and without experts, which stage 1b is to make.

Source: paper, section on training, stage 1; SPEC §3.
"""

from dataclasses import dataclass, field

from trl import SFTConfig

from polyv.recipes.stage import DataArguments, ModelArguments, parse, run


@dataclass
class CaptionArguments(ModelArguments):
    trainable: str = field(default="projection", metadata={"help": "What trains, see polyv.recipes.trainable."})


def main(argv: list[str] | None = None) -> None:
    """Run the command; `argv` defaults to the process's own arguments."""
    run(*parse("caption", (CaptionArguments, DataArguments, SFTConfig), argv))


if __name__ == "__main__":
    main()
