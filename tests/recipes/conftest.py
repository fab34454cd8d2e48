# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""Conversations about real media files, and a model that learns from them in a second."""

import inspect
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoConfig, AutoModelForImageTextToText
from trl import SFTConfig

from polyv import PolyVForConditionalGeneration
from polyv.processing.posed_views import PosedViews
from polyv.processing.processing_polyv import PolyVProcessor
from polyv.recipes.collator import ConversationCollator
from polyv.recipes.data import read_rows
from polyv.recipes.nano import SCENES, make_config, make_processor, make_tokenizer
from polyv.recipes.trainer import PolyVTrainer, keep_scene_settings
from polyv.world.media import write_video


SENTENCES = [
    "system You are a helpful assistant.",
    "user assistant What is red? The ball is red.",
    "How many? two",
] * 2


def turn(role: str, text: str, **media: str) -> dict:
    """One message: its media, then its text."""
    entries = [{"type": kind, kind: path} for kind, path in media.items()]
    return {"role": role, "content": [*entries, {"type": "text", "text": text}]}


def pan(count: int) -> PosedViews:
    """A camera that moves sideways along a wall 2 m away."""
    poses = np.tile(np.eye(4), (count, 1, 1))
    poses[:, 0, 3] = 0.1 * np.arange(count)
    intrinsics = np.array([[60.0, 0, 32], [0, 60, 32], [0, 0, 1]])
    images = np.random.default_rng(0).integers(0, 255, (count, 64, 64, 3), dtype=np.uint8)
    return PosedViews.from_arrays(images, np.full((count, 64, 64), 2.0, np.float32), intrinsics, poses)


@pytest.fixture(scope="session")
def data(tmp_path_factory) -> Path:
    """A folder with media and `rows.jsonl`: an image with two turns, a video, a scene, two images, and text alone."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for name in ("a.png", "b.png"):
        Image.fromarray(rng.integers(0, 255, (64, 48, 3), dtype=np.uint8)).save(folder / name)
    write_video(folder / "clip.mp4", rng.integers(0, 255, (8, 64, 64, 3), dtype=np.uint8), 8.0)
    pan(2).save(folder / "scene")
    two_images = turn("user", "What is red?", image="a.png")
    two_images["content"].insert(1, {"type": "image", "path": "b.png"})
    conversations = [
        [
            turn("user", "What is red?", image="a.png"),
            turn("assistant", "The ball is red."),
            turn("user", "How many?"),
            turn("assistant", "two"),
        ],
        [turn("user", "How many?", video="clip.mp4"), turn("assistant", "two")],
        [turn("user", "What is red?", scene="scene"), turn("assistant", "The ball")],
        [two_images, turn("assistant", "two")],
        [{"role": "user", "content": "How many?"}, {"role": "assistant", "content": "two is red"}],
    ]
    rows = [{"id": str(index), "messages": messages} for index, messages in enumerate(conversations)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(scope="session")
def start(tmp_path_factory) -> Path:
    """A folder to train from scratch from, as `polyv.recipes.nano` writes it, but narrower."""
    folder = tmp_path_factory.mktemp("start")
    tokenizer = make_tokenizer(SENTENCES)
    config = make_config(tokenizer)
    text, vision = config.text_config, config.vision_config
    text.hidden_size, text.intermediate_size = vision.out_hidden_size, _ = 32, 48
    text.num_attention_heads = text.num_key_value_heads = 1
    vision.hidden_size, vision.intermediate_size, vision.num_heads, vision.depth = 32, 48, 1, 2
    vision.fullatt_block_indexes = [0, 1]
    config.save_pretrained(folder)
    make_processor(tokenizer).save_pretrained(folder)
    keep_scene_settings(str(folder), SCENES)
    return folder


@pytest.fixture
def processor(start) -> PolyVProcessor:
    return PolyVProcessor.from_pretrained(start)


@pytest.fixture
def dense(start):
    torch.manual_seed(0)
    return AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(start))


@pytest.fixture
def polyv(dense, tmp_path):
    dense.save_pretrained(tmp_path / "dense")
    return PolyVForConditionalGeneration.from_pretrained(tmp_path / "dense", dtype=torch.float32)


@pytest.fixture
def make_trainer(data, processor, tmp_path):
    def make(model, base_model=None, peft_config=None, **settings) -> PolyVTrainer:
        quiet = {"bf16": False, "gradient_checkpointing": False, "report_to": "none", "logging_steps": 1}
        args = SFTConfig(str(tmp_path / "out"), use_cpu=True, disable_tqdm=True, **{**quiet, **settings})
        return PolyVTrainer(
            model,
            args,
            train_dataset=read_rows(data / "rows.jsonl"),
            data_collator=ConversationCollator(processor, inspect.signature(model.forward).parameters),
            processing_class=processor,
            datasets=["rows.jsonl"],
            base_model=base_model,
            peft_config=peft_config,
        )

    return make
