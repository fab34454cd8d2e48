# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""Write polyv-nano-backbone before its training: a small dense Qwen2.5-VL's config, tokenizer and processor.

```bash
python -m polyv.recipes.nano --texts data/train/captions.jsonl data/train/suites.jsonl --out runs/nano-start
python -m polyv.recipes.vision --config recipes/polyv-nano/vision.yaml
```

The tokenizer is learned from the conversations in `--texts`; nothing here is random, and no weights are written.
"""

import argparse
import importlib.resources
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer
from transformers import (
    Qwen2_5_VLConfig,
    Qwen2_5_VLProcessor,
    Qwen2Tokenizer,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
)

from polyv.recipes.trainer import keep_scene_settings


SPECIAL_TOKENS = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
]
VOCAB_SIZE = 1024
SPARE_ROWS = 32  # embedding rows that no token uses: `<synergy>` takes one of them at upcycling
PATCH, MERGE = 8, 2
IMAGE_SIDE, FRAME_SIDE = 112, 80  # pixels: 49 tokens an image, 25 a pair of video frames
INITIALIZER_RANGE = 0.06  # 1 / sqrt(width), about; the library's .02 is for widths in the thousands
SCENES = {"num_views": 6, "min_pixels": 32 * 32, "max_pixels": 64 * 64}  # 16 tokens a view


def conversation_texts(files: Iterable[str | Path]) -> Iterator[str]:
    """Every text of the conversations in JSONL `files`, with the words that the chat template puts around them."""
    for file in files:
        with open(file, encoding="utf-8") as lines:
            for line in lines:
                yield "system\nYou are a helpful assistant."
                for message in json.loads(line)["messages"]:
                    yield message["role"] + "\n"
                    content = message["content"]
                    yield from [content] if isinstance(content, str) else [e["text"] for e in content if "text" in e]


def make_tokenizer(texts: Iterable[str]) -> Qwen2Tokenizer:
    """A byte-level BPE of at most `VOCAB_SIZE - SPARE_ROWS` tokens: Qwen's pre-tokenizer and special tokens, merges
    learned from `texts`."""
    learner = Qwen2Tokenizer().backend_tokenizer
    learner.train_from_iterator(
        texts,
        BpeTrainer(
            vocab_size=VOCAB_SIZE - SPARE_ROWS - len(SPECIAL_TOKENS),
            initial_alphabet=ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    learned = json.loads(learner.to_str())["model"]
    vocab = {token: index for index, token in enumerate([*learned["vocab"], *SPECIAL_TOKENS])}
    return Qwen2Tokenizer(
        vocab=vocab,
        merges=[tuple(merge) for merge in learned["merges"]],
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        extra_special_tokens=SPECIAL_TOKENS,
    )


def make_processor(tokenizer: Qwen2Tokenizer) -> Qwen2_5_VLProcessor:
    """Qwen2.5-VL's processor and chat template at nano size: 112×112 images, videos as 80×80 frames, 4 a second."""
    template = importlib.resources.files("trl") / "chat_templates" / "qwen2_5_vl.jinja"
    return Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(
            patch_size=PATCH, merge_size=MERGE, size={"shortest_edge": 56 * 56, "longest_edge": IMAGE_SIDE**2}
        ),
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(
            patch_size=PATCH,
            merge_size=MERGE,
            size={"shortest_edge": 56 * 56, "longest_edge": FRAME_SIDE**2},
            do_sample_frames=True,
            fps=4,
            max_frames=16,
            cap_pixels_per_frame=False,
        ),
        chat_template=template.read_text(encoding="utf-8"),
    )


def make_config(tokenizer: Qwen2Tokenizer) -> Qwen2_5_VLConfig:
    """2.4M parameters: 8 text layers of width 128, 4 vision layers of width 96.

    `rope_theta` is small because a rotary base of 1e4 or more turns the width axis by less than .003 rad a token at
    head_dim 32: no signal over a 7×7 grid. `tokens_per_second` is one position a pair of frames, so a 2 s clip
    spans no more positions in time than in height, and upstream's fault in `get_rope_index` never shows.
    """
    token_id = tokenizer.convert_tokens_to_ids
    return Qwen2_5_VLConfig(
        text_config={
            "vocab_size": VOCAB_SIZE,
            "hidden_size": 128,
            "intermediate_size": 352,
            "num_hidden_layers": 8,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "max_position_embeddings": 4096,
            "initializer_range": INITIALIZER_RANGE,
            "rope_parameters": {"rope_type": "default", "rope_theta": 30.0, "mrope_section": [4, 6, 6]},
            "tie_word_embeddings": True,
            "bos_token_id": token_id("<|endoftext|>"),
            "eos_token_id": token_id("<|im_end|>"),
            "pad_token_id": token_id("<|endoftext|>"),
        },
        vision_config={
            "depth": 4,
            "initializer_range": INITIALIZER_RANGE,
            "hidden_size": 96,
            "intermediate_size": 256,
            "num_heads": 3,
            "out_hidden_size": 128,
            "patch_size": PATCH,
            "spatial_merge_size": MERGE,
            "window_size": IMAGE_SIDE,
            "fullatt_block_indexes": [0, 1, 2, 3],
            "tokens_per_second": 2,
        },
        image_token_id=token_id("<|image_pad|>"),
        video_token_id=token_id("<|video_pad|>"),
        vision_start_token_id=token_id("<|vision_start|>"),
        vision_end_token_id=token_id("<|vision_end|>"),
        tie_word_embeddings=True,
    )


def main(argv: list[str] | None = None) -> None:
    """Run the command; `argv` defaults to the process's own arguments."""
    parser = argparse.ArgumentParser(prog="python -m polyv.recipes.nano", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--texts", nargs="+", required=True, help="JSONL files whose conversations it will read")
    parser.add_argument("--out", required=True, help="folder to write")
    args = parser.parse_args(argv)

    tokenizer = make_tokenizer(conversation_texts(args.texts))
    config = make_config(tokenizer)
    config.save_pretrained(args.out)
    make_processor(tokenizer).save_pretrained(args.out)
    keep_scene_settings(args.out, SCENES)
    print(f"{args.out}: {len(tokenizer)} tokens in {config.text_config.vocab_size} rows")


if __name__ == "__main__":
    main()
