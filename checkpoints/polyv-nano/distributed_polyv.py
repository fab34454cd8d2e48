# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""Training in several processes: every batch reaches what takes in media, though with nothing.

DistributedDataParallel waits for the gradient of each weight: for ever, where one process has media and another none
(unless it looks for unused weights in every step, which Trainer leaves out beside gradient checkpointing). The synergy
heads are not among what is reached: without a loss on them, freeze them, as `polyv train pretrain` does.
"""

from collections.abc import Collection
from typing import Any

import torch
from torch import distributed as dist
from torch import nn


def trains_with_others(module: nn.Module) -> bool:
    """Whether other processes wait for this one's gradients."""
    several = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
    return several and module.training and torch.is_grad_enabled()


def reach_absent_media(model: Any, encoded: Collection[str], device: torch.device) -> torch.Tensor:
    """Zero on `device`, with a graph to what a `PolyVModel` does not use of itself for a batch that holds only the
    modalities `encoded`, "image" and "video".

    Its gradients are zeros where one process alone would have none, so that an optimizer's momentum and decay still
    move these weights. Each process calls the vision encoder twice, as sharded weights (FSDP) ask for.
    """
    weight = model.time_encoding.weight
    unused = [model.time_encoding(weight.new_zeros(1, 1)), model.coordinate_encoding(weight.new_zeros(1, 3))]
    vision = model.config.vision_config
    side = vision.spatial_merge_size
    size = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
    for _ in {"image", "video"} - set(encoded):
        patches = torch.zeros(side**2, size, dtype=model.visual.dtype, device=model.visual.device)
        grid = torch.tensor([[1, side, side]], device=patches.device)
        unused.append(model.visual(patches, grid_thw=grid, return_dict=True).pooler_output)
    return sum((0 * values.sum().to(device) for values in unused), torch.zeros((), dtype=weight.dtype, device=device))


__all__ = ["reach_absent_media", "trains_with_others"]
