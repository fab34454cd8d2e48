# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""The parts of `make bench`: blocks, models and processors, each beside what it is compared with."""

import copy
import ctypes
import gc
import re
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm import tqdm
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2MLP
from transformers.models.qwen3_vl_moe.configuration_qwen3_vl_moe import Qwen3VLMoeTextConfig
from transformers.models.qwen3_vl_moe.modeling_qwen3_vl_moe import Qwen3VLMoeTextSparseMoeBlock

from polyv.configuration.configuration_polyv import PolyVConfig, PolyVTextConfig
from polyv.evaluation.flops import block_flops, decoder_flops, vision_flops
from polyv.evaluation.shapes import make_config
from polyv.modeling_polyv.modeling_polyv import PolyVForConditionalGeneration
from polyv.modeling_polyv.moe import PolyVSparseMoeBlock


SHAPES = ((512, 1024, 4096), (2048, 512, 1408), (16, 1024, 4096))  # tokens, hidden, intermediate
GPU_SHAPES = ((4096, 2048, 11008), (4096, 3584, 18944), (16, 3584, 18944))  # 3B's and 7B's FFNs
IMPLEMENTATIONS = ("eager", "batched_mm", "grouped_mm")
REPEATS = 15


@dataclass
class Entrant:
    """One side of a comparison. `run` leaves nothing in memory; `weights` are bytes, `flops` those of one run."""

    run: Callable[[], Any]
    weights: int = 0
    flops: float = 0.0


@dataclass
class Comparison:
    """What is run beside what. All are told as multiples of the first entrant.

    Attributes:
        what: the columns that say what is compared.
        entrants: by name.
        dtype: of the products.
        repeats: how many times more often than others: short runs scatter more.
    """

    what: dict[str, Any]
    entrants: dict[str, Entrant]
    dtype: torch.dtype = torch.float32
    repeats: int = 1


def measure(comparisons: Iterator[Comparison], device: str, repeats: int, desc: str) -> dict[str, list[dict]]:
    """Rows of "time", "memory" and, where FLOPs are counted, "mfu" of each comparison: the FLOPs a second of each entrant
    over those of a large matrix product."""
    measured: dict[str, list[dict]] = {"time": [], "mfu": [], "memory": []}
    for comparison in tqdm(comparisons, desc=desc):
        entrants = comparison.entrants
        (base, first), *others = entrants.items()
        seconds = race({name: each.run for name, each in entrants.items()}, device, repeats * comparison.repeats)
        row: dict[str, Any] = {f"{base}_ms": 1e3 * statistics.median(seconds[base])}
        row.update({name: ratio_and_spread(seconds[name], seconds[base]) for name, _ in others})
        if first.flops:
            peak = matmul_peak(device, comparison.dtype)
            used = {name: each.flops / statistics.median(seconds[name]) / peak for name, each in entrants.items()}
            measured["mfu"].append({**comparison.what, **used})
            row["flops"] = others[0][1].flops / first.flops
            if len(others) == 1:
                row["time / flops"] = row[others[0][0]][0] / row["flops"]
        measured["time"].append({**comparison.what, **row})
        peaks = {name: peak_memory(each.run, device) for name, each in entrants.items()}
        held = {name: entrants[name].weights + peak for name, peak in peaks.items() if peak is not None}
        if held:
            row = {f"{base}_MB": held[base] / 1e6, **{name: held[name] / held[base] for name, _ in others}}
            measured["memory"].append({**comparison.what, **row})
    return measured


def race(runs: dict[str, Callable[[], Any]], device: str, repeats: int = REPEATS) -> dict[str, list[float]]:
    """Seconds of each; each repetition calls all of them in turn, beginning with another one."""
    names = list(runs)
    taken: dict[str, list[float]] = {name: [] for name in names}
    for name in names:
        runs[name]()  # the first call allocates, compiles and warms caches
    for repeat in range(repeats):
        for name in names[repeat % len(names) :] + names[: repeat % len(names)]:
            _wait(device)
            start = time.perf_counter()
            runs[name]()
            _wait(device)
            taken[name].append(time.perf_counter() - start)
    return taken


def ratio_and_spread(seconds: list[float], others: list[float]) -> list[float]:
    """Of the ratios within each repetition, which a machine's moods change least: the median, and half the distance
    between the quartiles."""
    ratios = [one / other for one, other in zip(seconds, others, strict=True)]
    quartiles = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
    return [statistics.median(ratios), (quartiles[2] - quartiles[0]) / 2]


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def peak_memory(run: Callable[[], Any], device: str) -> int | None:
    """Bytes held at most during `run`, above what was held before it: of the GPU's, or the process's where Linux tells them,
    else None."""
    gc.collect()
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    try:
        ctypes.CDLL(None).malloc_trim(0)  # else `run` would begin with what earlier ones have freed
        Path("/proc/self/clear_refs").write_text("5")  # the peak is from now on
    except (AttributeError, OSError):
        return None
    before = peak_resident()
    run()
    return peak_resident() - before


def peak_resident() -> int:
    """Bytes of memory that this process has held at most, mapped files included (Linux). `resource.getrusage` would count
    what the parent held when it started this process."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return 1024 * int(re.search(r"VmHWM:\s+(\d+) kB", status)[1])  # type: ignore[index]


@cache
def matmul_peak(device: str, dtype: torch.dtype) -> float:
    """FLOPs a second of a large square matrix product: the most that a model could reach."""
    side = 8192 if device == "cuda" else 2048
    one, other = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    return 2 * side**3 / statistics.median(race({"matmul": lambda: one @ other}, device)["matmul"])


def blocks(device: str) -> Iterator[Comparison]:
    """(a) Forward, and forward with backward, of blocks of one width beside the dense FFN."""
    shapes = GPU_SHAPES if device == "cuda" else SHAPES
    dtypes = (torch.bfloat16,) if device == "cuda" else (torch.float32, torch.bfloat16)
    for tokens, hidden, intermediate in shapes:
        for dtype in dtypes:
            made = make_blocks(hidden, intermediate, device, dtype)
            x = torch.randn(1, tokens, hidden, device=device, dtype=dtype, requires_grad=True)
            for backward in (False, True):
                # It gathers its expert's weights for every choice: GBs for a long prompt. It is meant for decoding.
                names = [name for name in made if "batched" not in name or tokens <= 16]
                # A backward pass is two forward ones.
                flops = {
                    name: (3 if backward else 1)
                    * block_flops(hidden, intermediate, tokens, *((0, 1) if name == "dense" else (4, 2)))
                    for name in names
                }
                yield Comparison(
                    what={
                        "tokens": tokens,
                        "shape": f"{hidden} → {intermediate}",
                        "dtype": str(dtype).removeprefix("torch."),
                        "pass": "forward + backward" if backward else "forward",
                    },
                    entrants={
                        name: Entrant(_block_run(made[name], x, backward), _bytes(made[name]), flops[name])
                        for name in names
                    },
                    dtype=dtype,
                )


def _bytes(module: nn.Module) -> int:
    return sum(parameter.nbytes for parameter in module.parameters())


class Unrouted(nn.Module):
    """What an MoE block is without a router: as many FFNs, each on its even share of the tokens, known beforehand."""

    def __init__(self, config: PolyVTextConfig):
        super().__init__()
        self.experts = nn.ModuleList(Qwen2MLP(config) for _ in range(config.num_experts))
        self.share = config.num_experts_per_tok / config.num_experts

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        share = x[:, : int(self.share * x.shape[1])]
        return torch.cat([expert(share) for expert in self.experts], dim=1)


def make_blocks(hidden: int, intermediate: int, device: str, dtype: torch.dtype) -> dict[str, nn.Module]:
    """A dense FFN, four of them unrouted, PolyV's block by each experts implementation, transformers' own as it comes."""
    sizes = {"hidden_size": hidden, "intermediate_size": intermediate, "moe_intermediate_size": intermediate}
    experts = {"num_experts": 4, "num_experts_per_tok": 2}
    ours = PolyVTextConfig(**sizes, **experts, num_hidden_layers=4, num_attention_heads=8, num_key_value_heads=8)
    peer = Qwen3VLMoeTextConfig(**sizes, **experts)
    peer._experts_implementation = "grouped_mm"
    blocks: dict[str, nn.Module] = {"dense": Qwen2MLP(ours), "unrouted": Unrouted(ours)}
    for name in IMPLEMENTATIONS:
        config = copy.deepcopy(ours)
        config._experts_implementation = name
        blocks[f"polyv {name}"] = PolyVSparseMoeBlock(config)
    blocks["qwen3-vl-moe grouped_mm"] = Qwen3VLMoeTextSparseMoeBlock(peer)
    for block in blocks.values():
        for parameter in block.parameters():
            nn.init.normal_(parameter, std=0.02)
        block.to(device, dtype)
    return blocks


def _block_run(block: nn.Module, x: torch.Tensor, backward: bool) -> Callable[[], None]:
    def forward() -> None:
        with torch.no_grad():
            block(x)

    def both() -> None:
        block(x).sum().backward()
        block.zero_grad()
        x.grad = None

    return both if backward else forward


def model_configs(shape: str) -> tuple[Qwen2_5_VLConfig, PolyVConfig]:
    """A dense model of eight layers, and the PolyV of it."""
    tokens = {"image_token_id": 10, "video_token_id": 11, "vision_start_token_id": 12, "vision_end_token_id": 13}
    dense = make_config(shape, num_hidden_layers=8, **tokens)
    return dense, PolyVConfig.from_dense(dense, synergy_token_id=14)


def make_batch(config: Qwen2_5_VLConfig, device: str, dtype: torch.dtype, rows: int, words: int = 128) -> dict:
    """Rows of one image of 16×16 patches (64 tokens) and some words."""
    generator = torch.Generator().manual_seed(0)
    prompt = [config.vision_start_token_id, *[config.image_token_id] * 64, config.vision_end_token_id]
    text = torch.randint(20, 8000, (rows, words), generator=generator)
    ids = torch.cat([torch.tensor([prompt] * rows), text], dim=1).to(device)
    vision = config.vision_config
    size = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "mm_token_type_ids": (ids == config.image_token_id).int(),
        "pixel_values": torch.randn(rows * 256, size, generator=generator).to(device, dtype),
        "image_grid_thw": torch.tensor([[1, 16, 16]] * rows, device=device),
    }


def models(device: str) -> Iterator[Comparison]:
    """(b) Forward with backward, a prefill and cached decoding steps. An optimizer is left out: its time and memory grow
    with all of the weights, not with those that a token uses."""
    for shape in ("3b", "7b") if device == "cuda" else ("small",):
        yield from _models_of(shape, device)


def _models_of(shape: str, device: str) -> Iterator[Comparison]:
    dense_config, polyv_config = model_configs(shape)
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    configs = {"dense": dense_config, "polyv": polyv_config}
    made = {
        "dense": Qwen2_5_VLForConditionalGeneration(dense_config).to(device, dtype),
        "polyv": PolyVForConditionalGeneration(polyv_config).to(device, dtype),
    }
    rows, count = (8, 4) if device == "cuda" else (2, 4)
    batch = make_batch(dense_config, device, dtype, rows)
    # What decoding takes is reading weights. Of one row these go as the FLOPs do; several rows share what they read.
    one_row = make_batch(dense_config, device, dtype, rows=1)
    length = batch["input_ids"].shape[1]

    def whole(name: str, logits: int) -> float:
        config = configs[name]
        return decoder_flops(config.text_config, length, length, logits) + vision_flops(config.vision_config, 256)

    def steps(name: str) -> float:
        return sum(decoder_flops(configs[name].text_config, 1, length + 1 + step, logits=1) for step in range(count))

    passes: dict[str, tuple[Callable[[Any], Callable], Callable[[str], float]]] = {
        # A backward pass is two forward ones.
        "forward + backward": (
            lambda model: _training_step(model, batch),
            lambda name: 3 * rows * whole(name, length),
        ),
        "prefill": (lambda model: _prefill(model, batch), lambda name: rows * whole(name, 1)),
        f"{count} decoding steps": (lambda model: _decode(model, one_row, count), steps),
    }
    for what, (make_run, flops) in passes.items():
        yield Comparison(
            what={"shape": shape, "what": what},
            entrants={name: Entrant(make_run(model), _bytes(model), flops(name)) for name, model in made.items()},
            dtype=dtype,
            repeats=3 if "decoding" in what else 1,
        )


def _training_step(model: Any, batch: dict) -> Callable[[], None]:
    def run() -> None:
        model.train()
        # With the balance loss where there is one.
        routed = {"output_router_logits": True} if model.config.model_type == "polyv" else {}
        model(**batch, labels=batch["input_ids"], **routed).loss.backward()
        model.zero_grad()

    return run


def _prefill(model: Any, batch: dict) -> Callable[[], Any]:
    def run() -> Any:
        model.eval()
        with torch.no_grad():
            return model(**batch, use_cache=True, logits_to_keep=1)

    return run


def _decode(model: Any, batch: dict, count: int) -> Callable[[], None]:
    """Steps after a prefill that is done once: the cache is cropped back after each run."""
    cache = _prefill(model, batch)().past_key_values
    ids = batch["input_ids"][:, -1:]
    # `generate` tells the positions; else the model takes those of whatever prompt it saw last.
    positions = [
        torch.full((3, len(ids), 1), cache.get_seq_length() + step, device=ids.device) for step in range(count)
    ]

    def run() -> None:
        model.eval()
        # As `generate` decodes: off the CPU it switches to the experts implementation that is faster for few tokens.
        with torch.no_grad(), model._optimize_model_for_decode():
            for position_ids in positions:
                model(
                    input_ids=ids,
                    position_ids=position_ids,
                    past_key_values=cache,
                    use_cache=True,
                    logits_to_keep=1,
                )
        cache.crop(-count)

    return run


def processors() -> Iterator[Comparison]:
    """(c) Images, videos and scenes through PolyV's processor, beside Qwen2.5-VL's on the same pictures."""
    from polyv.processing.posed_views import PosedViews
    from polyv.processing.processing_polyv import PolyVProcessor
    from polyv.recipes.nano import make_processor, make_tokenizer

    theirs = make_processor(make_tokenizer(["user assistant system How many red balls are there?"]))
    for part in (theirs.image_processor, theirs.video_processor):
        part.size = {"shortest_edge": 4 * 28 * 28, "longest_edge": 1280 * 28 * 28}
    ours = PolyVProcessor(theirs.image_processor, theirs.tokenizer, theirs.video_processor)
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 255, (480, 640, 3), dtype=np.uint8) for _ in range(8)]
    video = rng.integers(0, 255, (32, 240, 320, 3), dtype=np.uint8)
    poses = np.tile(np.eye(4), (8, 1, 1))
    poses[:, 0, 3] = 0.1 * np.arange(8)
    intrinsics = np.array([[500.0, 0, 320], [0, 500, 240], [0, 0, 1]])
    depths = rng.uniform(1, 4, (8, 480, 640)).astype(np.float32)
    depths[rng.random(depths.shape) < 0.05] = 0  # not measured, as sensors leave some
    scene = PosedViews.from_arrays(np.stack(images), depths, intrinsics, poses)
    pad = "<|vision_start|><|{}_pad|><|vision_end|>".format
    told = {"fps": 8.0, "total_num_frames": 32, "frames_indices": list(range(32))}
    clip: dict[str, Any] = {"videos": [video], "text": pad("video"), "video_metadata": [told], "return_tensors": "pt"}
    pictures: dict[str, Any] = {"images": images, "text": pad("image") * 8, "return_tensors": "pt"}
    views: dict[str, Any] = {
        "scenes": [scene],
        "text": "<|scene_pad|>",
        "return_tensors": "pt",
        "scenes_kwargs": {"max_pixels": None},
    }
    pairs = {
        "8 images of 640x480": (lambda: theirs(**pictures), lambda: ours(**pictures)),
        "a video of 32 frames of 320x240": (
            lambda: theirs(**clip, do_sample_frames=False),
            lambda: ours(**clip, do_sample_frames=False),
        ),
        "the images as 8 views with depth": (lambda: theirs(**pictures), lambda: ours(**views)),
    }
    for what, (qwen, polyv) in pairs.items():
        yield Comparison({"what": what}, {"qwen": Entrant(qwen), "polyv": Entrant(polyv)}, repeats=3)


__all__ = ["Comparison", "Entrant", "blocks", "measure", "models", "processors"]
