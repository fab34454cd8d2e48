# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""What tests share: settings (no network, no telemetry), checkpoints with random weights, a small world."""

import os
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import settings


# A busy machine is slow, not wrong; and what fails here must fail everywhere.
settings.register_profile("polyv", deadline=None, derandomize=bool(os.environ.get("CI")))
settings.load_profile("polyv")

# Before anything imports transformers.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
# One drawing backend everywhere, whether or not there is a display.
os.environ["MPLBACKEND"] = "Agg"


class Untrained(NamedTuple):
    """Checkpoints with random weights in exact Hub format: a dense Qwen2.5-VL at nano size, and a PolyV of it."""

    backbone: Path
    polyv: Path


@pytest.fixture(scope="session")
def untrained(tmp_path_factory) -> Untrained:
    import torch
    from transformers import Qwen2_5_VLForConditionalGeneration

    from polyv import PolyVForConditionalGeneration, PolyVProcessor
    from polyv.recipes.nano import make_config, make_processor, make_tokenizer

    folders = Untrained(*(tmp_path_factory.mktemp("untrained") / name for name in Untrained._fields))
    tokenizer = make_tokenizer(["system user assistant You are a helpful assistant.", "How many red balls are there?"])
    config = make_config(tokenizer)
    # Untied and wide, so that greedy answers of random weights vary with what is seen.
    config.tie_word_embeddings = config.text_config.tie_word_embeddings = False
    config.text_config.initializer_range = config.vision_config.initializer_range = 0.2
    torch.manual_seed(0)
    Qwen2_5_VLForConditionalGeneration(config).save_pretrained(folders.backbone)
    make_processor(tokenizer).save_pretrained(folders.backbone)
    PolyVForConditionalGeneration.from_pretrained(folders.backbone).save_pretrained(folders.polyv)
    PolyVProcessor.from_pretrained(folders.backbone).save_pretrained(folders.polyv)
    return folders


@pytest.fixture(scope="session")
def small_world(tmp_path_factory) -> Path:
    """A world of two scenes of the test split, seed 3."""
    from polyv.world.make import make_world

    folder = tmp_path_factory.mktemp("world") / "test"
    return make_world(folder, scenes=2, seed=3, size=112, split="test", workers=1, progress=False)
