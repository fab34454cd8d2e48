# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""Sharding plans and data-parallel training, on two processes of a CPU: run by torchrun, this file is one of them."""

import json
import sys
from datetime import timedelta
from pathlib import Path

import pytest
import torch

from polyv import PolyVForConditionalGeneration
from tests import tiny
from tests.processes import run_two


MODULE = "tests.modeling_polyv.test_parallel"
PLANS = {"tensor": {"tp_size": 2}, "expert": {"tp_size": 2, "ep_size": 2}}
SHARDS = {"tensor": [4, 64, 48], "expert": [2, 128, 48]}  # of gate_up_proj, [4, 2 * 64, 48]


@pytest.mark.slow
@pytest.mark.parametrize("plan", PLANS)
def test_a_sharded_model_computes_what_the_whole_one_does(plan, tmp_path):
    distributed = pytest.importorskip("transformers.distributed")
    if "ep_size" not in distributed.DistributedConfig.__dataclass_fields__:
        pytest.skip("this transformers has no DistributedConfig(ep_size=...)")
    tiny.polyv().save_pretrained(tmp_path / "model")
    torch.save(tiny.inputs([[("image", 4, 4)], [("scene", 4, 4), ("video", 2, 4, 4, 0.5)]]), tmp_path / "inputs.pt")
    run_two(MODULE, plan, str(tmp_path))
    for rank in range(2):
        found = json.loads((tmp_path / f"{rank}.json").read_text())
        assert found["difference"] < 1e-4 < found["spread"]
        assert found["shard"] == SHARDS[plan]


@pytest.mark.slow
@pytest.mark.parametrize("checkpointing", ["plain", "checkpointing"])
def test_a_process_without_media_neither_hangs_the_others_nor_loses_gradients(checkpointing, tmp_path):
    tiny.polyv().save_pretrained(tmp_path / "model")
    run_two(MODULE, f"data-{checkpointing}", str(tmp_path))
    for rank in range(2):
        found = json.loads((tmp_path / f"{rank}.json").read_text())
        assert found["weights"] > 100 and found["without"] == [] and found["difference"] < 1e-5 < found["largest"]


def compare(plan: str, folder: Path) -> None:
    """One of the two processes: the sharded model's logits beside the whole one's."""
    from transformers.distributed import DistributedConfig

    inputs = torch.load(folder / "inputs.pt")
    whole = PolyVForConditionalGeneration.from_pretrained(folder / "model").eval()
    sharded = PolyVForConditionalGeneration.from_pretrained(
        folder / "model", distributed_config=DistributedConfig(**PLANS[plan])
    ).eval()
    with torch.no_grad():
        wanted, got = whole(**inputs).logits, sharded(**inputs).logits
    weight = sharded.model.language_model.layers[3].mlp.experts.gate_up_proj
    found = {
        "difference": (got - wanted).abs().max().item(),
        "spread": wanted.std().item(),
        "shard": list(weight.to_local().shape),
    }
    (folder / f"{torch.distributed.get_rank()}.json").write_text(json.dumps(found))


def train(checkpointing: bool, folder: Path) -> None:
    """One of the two processes: gradients of DistributedDataParallel beside those of both batches in one process."""
    torch.distributed.init_process_group("gloo", timeout=timedelta(seconds=60))
    rank = torch.distributed.get_rank()
    batches = [tiny.inputs([*tiny.MIXED[-1:], []]), tiny.inputs([[], []], seed=1)]
    alone, shared = (PolyVForConditionalGeneration.from_pretrained(folder / "model").train() for _ in range(2))
    if checkpointing:
        shared.gradient_checkpointing_enable()
    for model in (alone, shared):  # without a loss on them
        model.temporal_head.requires_grad_(False), model.spatial_head.requires_grad_(False)
    parallel = torch.nn.parallel.DistributedDataParallel(shared)

    def loss(model, batch):
        return model(**batch, labels=batch["input_ids"], output_router_logits=True).loss

    for _ in range(2):  # a weight without a gradient is noticed in the next step
        shared.zero_grad()
        loss(parallel, batches[rank]).backward()
    (sum(loss(alone, batch) for batch in batches) / 2).backward()
    wanted, got = (
        {name: weight.grad for name, weight in model.named_parameters() if weight.requires_grad}
        for model in (alone, shared)
    )
    found = {
        "weights": len(got),
        "without": [name for name, gradient in got.items() if gradient is None],
        "difference": max((got[name] - wanted[name]).abs().max().item() for name in got),
        "largest": max(gradient.abs().max().item() for gradient in wanted.values()),
    }
    (folder / f"{rank}.json").write_text(json.dumps(found))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    if sys.argv[1].startswith("data-"):
        train(sys.argv[1] == "data-checkpointing", Path(sys.argv[2]))
    else:
        compare(sys.argv[1], Path(sys.argv[2]))
