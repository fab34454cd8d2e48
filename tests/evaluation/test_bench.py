# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
import json
import sys

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from polyv import PolyVForConditionalGeneration
from polyv.evaluation import bench, benchmarks
from polyv.evaluation.flops import decoder_flops, vision_flops


def test_flops_counted_by_hand_are_those_that_torch_counts():
    _, config = benchmarks.model_configs("small")
    config.vision_config.fullatt_block_indexes = [0, 1, 2, 3]  # as the count by hand has it
    model = PolyVForConditionalGeneration(config).eval()
    model.set_experts_implementation("eager")
    batch = benchmarks.make_batch(config, "cpu", torch.float32, rows=1)
    length = batch["input_ids"].shape[1]
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(**batch, logits_to_keep=1)
    by_hand = decoder_flops(config.text_config, length, length, logits=1) + vision_flops(config.vision_config, 256)
    # torch counts attention as if it had no mask.
    text = config.text_config
    unseen = 4 * text.hidden_size * (length**2 - length * (length + 1) // 2) * text.num_hidden_layers
    assert counter.get_total_flops() == pytest.approx(by_hand + unseen, rel=1e-3)


def test_the_floor_of_a_block_is_the_number_of_experts_a_token():
    _, config = benchmarks.model_configs("small")
    text = config.text_config
    layers, width, inner = text.num_hidden_layers, text.hidden_size, text.intermediate_size
    dense = type(text)(**{**text.to_dict(), "num_experts": 0})
    extra = decoder_flops(text, 10, 10, 0) - decoder_flops(dense, 10, 10, 0)
    assert extra == len(text.moe_layers) * 2 * 10 * (3 * width * inner + 4 * width)
    assert len(text.moe_layers) == layers // 4


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells the peak of a process's memory")
def test_peak_memory_is_what_a_run_holds_beyond_what_was_held():
    held = torch.ones(25_000_000)
    peaks = [benchmarks.peak_memory(lambda: torch.ones(50_000_000) + held.sum(), "cpu") for _ in range(2)]
    assert peaks == pytest.approx([400e6] * 2, rel=0.1)
    assert benchmarks.peak_memory(lambda: None, "cpu") < 10e6


def test_ratios_are_those_within_a_repetition():
    # The machine slows down tenfold half-way: medians of each side on its own would say something else.
    assert benchmarks.ratio_and_spread([2, 2, 20, 20, 24], [1, 1, 10, 10, 10]) == pytest.approx([2, 0.1])
    assert benchmarks.ratio_and_spread([3], [2]) == [1.5, 0]


def test_runs_leave_nothing_behind():
    block = benchmarks.make_blocks(8, 16, "cpu", torch.float32)["polyv eager"]
    x = torch.ones(1, 3, 8, requires_grad=True)
    benchmarks._block_run(block, x, backward=True)()
    assert x.grad is None and all(parameter.grad is None for parameter in block.parameters())


def test_a_small_run_writes_tables_and_json(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(benchmarks, "SHAPES", ((8, 64, 128), (24, 64, 128)))
    small = benchmarks.model_configs("small")
    for config in small:
        config.text_config.num_hidden_layers, config.vision_config.depth = 4, 1
    monkeypatch.setattr(benchmarks, "model_configs", lambda shape: small)
    bench.main(["--out", str(tmp_path / "bench"), "--repeats", "1"])
    report = json.loads((tmp_path / "bench.json").read_text())
    blocks, models, processors = (report[part] for part in ("blocks", "models", "processors"))
    assert [row["pass"] for row in blocks["time"]] == ["forward", "forward + backward"] * 4
    assert "polyv batched_mm" in blocks["time"][0] and "polyv batched_mm" not in blocks["time"][-1]
    assert all(row["flops"] > 1 for row in models["time"])
    assert all(row["polyv"][0] > 0 for part in (models, processors) for row in part["time"])
    assert len(blocks["mfu"]) == len(blocks["time"]) and len(models["mfu"]) == 3 and not processors["mfu"]
    text = (tmp_path / "bench.md").read_text()
    assert text in capsys.readouterr().out and text.count("| --- ") > 10
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bench.json", "bench.md"]
