# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""Training in several processes: every batch uses the same weights in the same order, whatever media it holds.

DistributedDataParallel waits for the gradient of each weight: for ever, where one process has media and another none
(unless it looks for unused weights in every step, which Trainer leaves out beside gradient checkpointing). FSDP and
ZeRO-3 gather the weights of each module that is called: where processes call others, or in another order, they take
one for the other, or wait for ever. So in training, and where there are several processes, `PolyVModel`
- encodes a blank image where a batch has none, and a blank video likewise;
- encodes all media, images first, before it puts any among the text, which orders the backward pass, too;
- gives all images of a batch their coordinates in one call, all videos their time in another.

Gradients of what is blank are zeros where one process alone would have none: an optimizer's momentum and decay still
move these weights. In evaluation nothing of this is done: evaluate a sharded model on batches that hold the same kinds
of media in every process, or load what it saved in one.

The synergy heads are not among this: without a loss on them, freeze them, as `polyv train pretrain` does; and a batch
has `<synergy>` in every process or in none, as `PolyVProcessor` writes its prompts.
"""

from typing import Any

import torch
from torch import distributed as dist
from torch import nn


def trains_with_others(module: nn.Module) -> bool:
    """Whether other processes wait for this one's gradients."""
    several = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
    return several and module.training and torch.is_grad_enabled()


def blank_media(visual: Any) -> tuple[Any, Any, None]:
    """What `get_image_features` and `get_video_features` take, for one black visual token of the vision encoder `visual`:
    its patches, their grid, and no coordinates or seconds."""
    vision = visual.config
    side = vision.spatial_merge_size
    size = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
    patches = torch.zeros(side**2, size, dtype=visual.dtype, device=visual.device)
    return patches, torch.tensor([[1, side, side]], device=patches.device), None


__all__ = ["blank_media", "trains_with_others"]
