# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""transformers' own common test suites (models, configurations, processors), mounted as the package `transformers_tests`.
Those of generation and export are not in its source distribution: see tests/modeling_polyv/test_generation_polyv.py.

`make conformance` takes them from the source distribution of the installed transformers and names their folder in
TRANSFORMERS_TESTS. Without it nothing here is collected: they are not ours to commit.
"""

import os
import re
import sys
import tempfile
from functools import cache
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image
from transformers import testing_utils
from transformers.models.auto import modeling_auto

from polyv.world.media import write_video


SUITES = os.environ.get("TRANSFORMERS_TESTS")
# Why a test of the suites may be skipped; for any other reason it fails. None needs the network (see `stand_in`).
SKIPS = [
    "requires (multiple )?accelerators?$",  # run where there is a GPU
    "requires (deepspeed|the kernels library|MPS|Flash Attention|librosa)",  # not installed, not for CPUs, or for audio
    "is slow",  # of 5.23 one, for a GPU: torch.compile in training
    "[Aa]udio|feature_extractor",
    "generation suite is not in the source distribution",
    "not an encoder-decoder|partial rope|position embeddings|sliding window|support tools",  # other architectures
    "No conversion found",  # a PolyV loads as it is saved
    "_keep_in_fp32_modules",  # it has none
    "PolyVModel does not support SDPA",  # one for models of one part, and says so of every other
]
_FRAMES = {"tiny_video_320x240.mp4": 11}
collect_ignore_glob = [] if SUITES else ["test_*.py"]


def _module(name: str, **content) -> None:
    sys.modules[name] = module = ModuleType(name)
    module.__dict__.update(content)


@cache
def stand_in(address: str) -> str:
    """A local file like the one on the Hub that a test asks for: a random picture, or a clip of that name's size."""
    name = Path(address).name
    file = Path(tempfile.mkdtemp()) / name
    rng = np.random.default_rng(0)
    if file.suffix in (".png", ".jpg"):
        Image.fromarray(rng.integers(0, 255, (240, 320, 3), dtype=np.uint8)).save(file)
    elif file.suffix == ".mp4":
        write_video(file, rng.integers(0, 255, (_FRAMES.get(name, 30), 240, 320, 3), dtype=np.uint8), 30.0)
    return str(file)


if SUITES:
    _module("transformers_tests", __path__=[SUITES])
    # What the suites import and the source distribution leaves out.
    _module("transformers_tests.exporters", __path__=[])
    _module("transformers_tests.exporters.test_export", ExportTesterMixin=type("ExportTesterMixin", (), {}))
    _module("transformers_tests.generation", __path__=[])
    _module("transformers_tests.generation.test_utils", GenerationTesterMixin=type("GenerationTesterMixin", (), {}))
    _module("transformers_tests.utils", __path__=[])
    _module("transformers_tests.utils.test_configuration_utils", config_common_kwargs={})
    _module("fetch_hub_objects_for_ci", url_to_local_path=stand_in)
    # Asked for by tests that decode a video: ours are read by PyAV.
    testing_utils.require_torchcodec = lambda test: test
    # By class names, these tell the suites which tests a model takes part in.
    modeling_auto.MODEL_MAPPING_NAMES["polyv"] = "PolyVModel"
    modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES["polyv"] = "PolyVForConditionalGeneration"


def pytest_configure(config):
    for name in ("accelerate_tests", "flash_attn_test", "flash_attn_3_test", "flash_attn_4_test", "generate"):
        config.addinivalue_line("markers", f"{name}: of transformers' suites")
    for name in ("torch_compile_test", "torch_export_test", "flex_attention_test", "is_training_test"):
        config.addinivalue_line("markers", f"{name}: of transformers' suites")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if report.skipped and isinstance(report.longrepr, tuple):
        reason = report.longrepr[2]
        if not any(re.search(known, reason) for known in SKIPS):
            report.outcome, report.longrepr = "failed", f"skipped for a reason that SKIPS does not list: {reason}"
    return report
