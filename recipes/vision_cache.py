# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""What a frozen vision encoder makes of each medium, computed once and kept on disk, for all epochs and all runs.

Shape suffixes: P patches, T merged visual tokens, G patches a token, D the encoder's hidden size.
"""

import hashlib
import os
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VisionTransformerPretrainedModel


class _Unmerged(nn.Module):
    """Stands in for the projection, and leaves to it its input: [P, D] → [T, G·D], a token's patches side by side."""

    def __init__(self, patches_a_token: int):
        super().__init__()
        self.patches_a_token = patches_a_token

    def forward(self, hidden_states_PD: torch.Tensor) -> torch.Tensor:
        return hidden_states_PD.reshape(len(hidden_states_PD) // self.patches_a_token, -1)


class VisionCache:
    """Takes the place of a frozen encoder's `forward`: media seen before, by this run or another, are read from disk.

    Kept is what enters the projection (the merger), which may train. A file is known by the medium's pixels, the
    encoder's weights, and what else decides the numbers: precision and attention. Each medium is encoded alone, so that what
    is kept does not depend on what it was first batched with. A token takes 4 hidden states of the encoder: 768 bytes for
    polyv-nano, 10 KB at 7B.

    Args:
        visual: the encoder. All of it but `merger` must be frozen.
        folder: made where it is missing; runs may share it, at once too.

    Raises:
        ValueError: weights of the encoder train, which would make what is kept wrong after a step.
    """

    def __init__(self, visual: Qwen2_5_VisionTransformerPretrainedModel, folder: str | os.PathLike):
        learns = [
            name
            for name, weight in visual.named_parameters()
            if weight.requires_grad and not name.startswith("merger.")
        ]
        if learns:
            raise ValueError(
                f"vision_cache={os.fspath(folder)}: the vision encoder trains ({learns[0]} and {len(learns) - 1} more), so that "
                "what it makes of a medium changes. Add freeze_vision: true, or leave vision_cache out."
            )
        self.visual, self.folder = visual, Path(folder)
        self.unmerged = _Unmerged(visual.spatial_merge_size**2)
        self.encode = visual.forward
        self.weights = hashlib.sha256()
        for name, weight in sorted(visual.state_dict().items()):
            if not name.startswith("merger."):
                self.weights.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode())
                self.weights.update(_bytes(weight))
        visual.forward = self

    def __call__(
        self, hidden_states: torch.Tensor, grid_thw: torch.Tensor, **kwargs: Any
    ) -> BaseModelOutputWithPooling:
        """As the encoder's own: pixels [P, …] of all media, one after the other, and their grids [number, 3]."""
        media = hidden_states.split(grid_thw.prod(-1).tolist())
        unmerged_TC = torch.cat([self._look_up(*medium) for medium in zip(media, grid_thw, strict=True)])
        patches_PD = unmerged_TC.reshape(len(hidden_states), -1)
        return BaseModelOutputWithPooling(last_hidden_state=patches_PD, pooler_output=self.visual.merger(patches_PD))

    def _look_up(self, pixels: torch.Tensor, grid: torch.Tensor) -> torch.Tensor:
        device = pixels.device
        known = self.weights.copy()
        autocast = torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else None
        known.update(f"{grid.tolist()} {pixels.dtype} {autocast} {self.visual.config._attn_implementation}".encode())
        known.update(_bytes(pixels))
        name = known.hexdigest()
        file = self.folder / name[:2] / f"{name[2:]}.safetensors"
        if file.is_file():
            return load_file(file, device=str(device))["unmerged"]
        merger = self.visual.merger
        self.visual.merger = self.unmerged
        try:
            with torch.no_grad():
                unmerged_TC = self.encode(pixels, grid_thw=grid[None]).pooler_output
        finally:
            self.visual.merger = merger
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_suffix(f".{os.getpid()}")  # two runs may come to it at once
        save_file({"unmerged": unmerged_TC.contiguous()}, partial)
        os.replace(partial, file)
        return unmerged_TC


def _bytes(tensor: torch.Tensor) -> memoryview:
    return tensor.detach().cpu().contiguous().view(torch.uint8).numpy().data


__all__ = ["VisionCache"]
