# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""The parts of `make bench`: blocks, models, processors and memory, each beside what it is compared with."""

import copy
import statistics
import time
from collections.abc import Callable
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
from polyv.evaluation.flops import decoder_flops, vision_flops
from polyv.modeling_polyv.modeling_polyv import PolyVForConditionalGeneration
from polyv.modeling_polyv.moe import PolyVSparseMoeBlock


SHAPES = ((512, 1024, 4096), (2048, 512, 1408), (16, 1024, 4096))  # tokens, hidden, intermediate
GPU_SHAPES = ((4096, 2048, 11008), (4096, 3584, 18944), (16, 3584, 18944))  # 3B's and 7B's FFNs
IMPLEMENTATIONS = ("eager", "batched_mm", "grouped_mm")
REPEATS = 7


def race(runs: dict[str, Callable[[], Any]], device: str, repeats: int = REPEATS) -> dict[str, float]:
    """Median seconds of each; each repetition calls all of them in turn, beginning with another one."""
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
    return {name: statistics.median(seconds) for name, seconds in taken.items()}


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def bench_blocks(device: str, repeats: int) -> list[dict]:
    """(a) Forward, and forward with backward, of blocks of one width: each over the dense FFN."""
    rows = []
    shapes = GPU_SHAPES if device == "cuda" else SHAPES
    dtypes = (torch.bfloat16,) if device == "cuda" else (torch.float32, torch.bfloat16)
    for tokens, hidden, intermediate in tqdm(shapes, desc="blocks"):
        for dtype in dtypes:
            blocks = make_blocks(hidden, intermediate, device, dtype)
            x = torch.randn(1, tokens, hidden, device=device, dtype=dtype, requires_grad=True)
            for backward in (False, True):
                # Every choice gathers its expert's weights: GBs for a long prompt. It is meant for decoding.
                names = [name for name in blocks if "batched" not in name or tokens <= 16]
                seconds = race({name: _block_run(blocks[name], x, backward) for name in names}, device, repeats)
                rows.append(
                    {
                        "tokens": tokens,
                        "shape": f"{hidden} → {intermediate}",
                        "dtype": str(dtype).removeprefix("torch."),
                        "pass": "forward + backward" if backward else "forward",
                        "dense_ms": 1e3 * seconds["dense"],
                        **{name: seconds[name] / seconds["dense"] for name in names if name != "dense"},
                    }
                )
    return rows


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
        block.zero_grad()
        block(x).sum().backward()

    return both if backward else forward


def model_configs(device: str) -> tuple[Qwen2_5_VLConfig, PolyVConfig]:
    """A dense model and the PolyV of it: on a CPU of 8 layers of width 512, on a GPU of eight of 3B's layers."""
    large = device == "cuda"
    text = {
        "hidden_size": 2048 if large else 512,
        "intermediate_size": 11008 if large else 1408,
        "num_hidden_layers": 8,
        "num_attention_heads": 16 if large else 8,
        "num_key_value_heads": 2,
        "vocab_size": 151936 if large else 8192,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 1e6,
            "mrope_section": [16, 24, 24] if large else [8, 12, 12],
        },
    }
    vision = {
        "depth": 4,
        "hidden_size": 1280 if large else 256,
        "intermediate_size": 3420 if large else 704,
        "num_heads": 16 if large else 4,
        "out_hidden_size": text["hidden_size"],
        "fullatt_block_indexes": [3],
    }
    tokens = {"image_token_id": 10, "video_token_id": 11, "vision_start_token_id": 12, "vision_end_token_id": 13}
    dense = Qwen2_5_VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=True, **tokens)
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


def matmul_peak(device: str, dtype: torch.dtype) -> float:
    """FLOPs a second of a large square matrix product: the most that a model could reach."""
    side = 8192 if device == "cuda" else 2048
    one, other = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    return 2 * side**3 / race({"matmul": lambda: one @ other}, device)["matmul"]


def bench_models(device: str, repeats: int) -> list[dict]:
    """(b) Forward with backward, a prefill and cached decoding steps, over the dense model's, and that over the ratio of
    FLOPs; and which part of `matmul_peak` each model uses (MFU). An optimizer is left out: its time and memory grow with all of the weights, not with those that a token uses."""
    dense_config, polyv_config = model_configs(device)
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    models = {
        "dense": Qwen2_5_VLForConditionalGeneration(dense_config),
        "polyv": PolyVForConditionalGeneration(polyv_config),
    }
    rows, count = (8, 4) if device == "cuda" else (2, 4)
    batch = make_batch(dense_config, device, dtype, rows)
    length = batch["input_ids"].shape[1]
    # What decoding takes is reading weights. Of one row these go as the FLOPs do; several rows share what they read.
    one_row = make_batch(dense_config, device, dtype, rows=1)
    runs: dict[str, dict[str, Callable]] = {"forward + backward": {}, "prefill": {}, f"{count} decoding steps": {}}
    for name, model in models.items():
        model.to(device, dtype)
        runs["forward + backward"][name] = _training_step(model, batch)
        runs["prefill"][name] = _prefill(model, batch)
        runs[f"{count} decoding steps"][name] = _decode(model, one_row, count)
    peak = matmul_peak(device, dtype)
    measured = []
    for what, pair in tqdm(runs.items(), desc="models"):
        seconds = race(pair, device, repeats)
        flops = {}  # of one row, forward
        for name, config in (("dense", dense_config), ("polyv", polyv_config)):
            text = config.text_config
            if "decoding" in what:
                flops[name] = sum(decoder_flops(text, 1, length + 1 + step, logits=1) for step in range(count))
            else:
                kept = length if what == "forward + backward" else 1
                flops[name] = decoder_flops(text, length, length, logits=kept) + vision_flops(
                    config.vision_config, 256
                )
        ratio, ideal = seconds["polyv"] / seconds["dense"], flops["polyv"] / flops["dense"]
        # A backward pass is two forward ones.
        passes = {"forward + backward": 3 * rows, "prefill": rows}.get(what, 1)
        used = {name: passes * flops[name] / seconds[name] / peak for name in pair}
        measured.append(
            {
                "what": what,
                "dense_ms": 1e3 * seconds["dense"],
                "ratio": ratio,
                "flops": ideal,
                "ratio / flops": ratio / ideal,
                "dense MFU": used["dense"],
                "polyv MFU": used["polyv"],
            }
        )
    return measured


def _training_step(model: Any, batch: dict) -> Callable[[], None]:
    def run() -> None:
        model.train()
        model.zero_grad()
        # With the balance loss where there is one.
        routed = {"output_router_logits": True} if model.config.model_type == "polyv" else {}
        model(**batch, labels=batch["input_ids"], **routed).loss.backward()

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


def bench_processor(repeats: int) -> list[dict]:
    """(c) Images, videos and scenes through PolyV's processor, over Qwen2.5-VL's on the same pictures."""
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
    scene = PosedViews.from_arrays(np.stack(images), np.full((8, 480, 640), 2, np.float32), intrinsics, poses)
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
    measured = []
    for what, (qwen, polyv) in tqdm(pairs.items(), desc="processor"):
        seconds = race({"qwen": qwen, "polyv": polyv}, "cpu", repeats)
        measured.append({"what": what, "qwen_ms": 1e3 * seconds["qwen"], "ratio": seconds["polyv"] / seconds["qwen"]})
    return measured


def bench_memory(device: str) -> list[dict]:
    """(d) Peak memory of a training step and of a prefill above what stood before it, over the dense model's."""
    dense_config, polyv_config = model_configs(device)
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    measured = []
    for what in ("forward + backward", "prefill"):
        peaks, weights = {}, {}
        for name, make in (
            ("dense", lambda: Qwen2_5_VLForConditionalGeneration(dense_config)),
            ("polyv", lambda: PolyVForConditionalGeneration(polyv_config)),
        ):
            model = make().to(device, dtype)
            weights[name] = sum(parameter.nbytes for parameter in model.parameters())
            run = (_training_step if what == "forward + backward" else _prefill)(
                model, make_batch(dense_config, device, dtype, 2)
            )
            peaks[name] = weights[name] + _peak_above(run, device)
            del model, run
        measured.append(
            {
                "what": what,
                "dense_MB": peaks["dense"] / 1e6,
                "ratio": peaks["polyv"] / peaks["dense"],
                "weights": weights["polyv"] / weights["dense"],
            }
        )
    return measured


def _peak_above(run: Callable[[], Any], device: str) -> int:
    """Bytes that PyTorch has allocated at most during `run`, above what it had before."""
    if device == "cuda":
        before = torch.cuda.memory_allocated()
        run()  # the first call also allocates the gradients, which stay
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        run()
        return torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(profile_memory=True, record_shapes=False) as profile:
        run()
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = np.cumsum([event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())])
    return int(held.max(initial=0))


__all__ = ["bench_blocks", "bench_memory", "bench_models", "bench_processor"]
