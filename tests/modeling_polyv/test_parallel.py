# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""The sharding plans, on two processes of a CPU: run by torchrun, this file is one of them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from polyv import PolyVForConditionalGeneration
from tests import tiny


ROOT = Path(__file__).parents[2]
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
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    ran = subprocess.run(
        [*command, "-m", "tests.modeling_polyv.test_parallel", plan, str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    for rank in range(2):
        found = json.loads((tmp_path / f"{rank}.json").read_text())
        assert found["difference"] < 1e-4 < found["spread"]
        assert found["shard"] == SHARDS[plan]


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


if __name__ == "__main__":
    compare(sys.argv[1], Path(sys.argv[2]))
