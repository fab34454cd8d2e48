# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""Odd and hostile inputs, made by hypothesis: dozens of each kind in `make test`, thousands in `make fuzz`."""

import pytest

from polyv.processing.processing_polyv import PolyVProcessor
from tests.fuzz.judge import VERDICTS
from tests.tiny_tokenizer import build_qwen_processor


@pytest.fixture(scope="session")
def processor() -> PolyVProcessor:
    stock = build_qwen_processor()
    return PolyVProcessor(stock.image_processor, stock.tokenizer, stock.video_processor)


def pytest_terminal_summary(terminalreporter):
    if VERDICTS:
        counts = ", ".join(f"{count} {verdict}" for verdict, count in sorted(VERDICTS.items()))
        terminalreporter.write_line(f"fuzz: {sum(VERDICTS.values())} inputs: {counts}")
