# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""A small network that sees all views of a scene at once and tells depth and camera poses: the nano spatial teacher.

Its shape follows VGGT (Wang et al. 2025, section 3): layers that attend within a view alternate with layers that
attend across all of them, each view has a camera token, and the first view's frame is that of the scene.

Shape suffixes: B scenes, V views, H, W tokens of a view, N = 1 + H·W (the camera token first), D hidden size.
"""

from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.utils import ModelOutput


class MultiViewConfig(PreTrainedConfig):
    """Sizes of a `MultiViewModel`: square pictures of `side` pixels, tokens of `patch` pixels, features of
    `hidden_size`, and `num_hidden_layers` layers, of which every second attends across views."""

    model_type = "polyv_multiview"

    side: int = 80
    patch: int = 10
    hidden_size: int = 192
    num_hidden_layers: int = 6
    initializer_range: float = 0.02


@dataclass
class MultiViewOutput(ModelOutput):
    """
    Args:
        features (`torch.FloatTensor` of shape `(B, V, H, W, D)`): What the teacher gives to a student.
        log_depth (`torch.FloatTensor` of shape `(B, V, side, side)`): Logarithm of the depth in metres of each pixel.
        pose (`torch.FloatTensor` of shape `(B, V, 9)`): Camera-to-world of each view where the first view's camera is
            the world: translation in metres, then the first two columns of the rotation.
    """

    features: torch.FloatTensor | None = None
    log_depth: torch.FloatTensor | None = None
    pose: torch.FloatTensor | None = None


class MultiViewModel(PreTrainedModel):
    """Depth and relative poses of several pictures of one scene."""

    config_class = MultiViewConfig
    config: MultiViewConfig

    def __init__(self, config: MultiViewConfig):
        super().__init__(config)
        width, cells = config.hidden_size, config.side // config.patch
        self.cells = cells
        self.embed = nn.Conv2d(3, width, config.patch, stride=config.patch)
        self.position = nn.Parameter(torch.empty(1 + cells * cells, width))
        # Of the first view, and of each other one: the first is the frame of reference.
        self.camera = nn.Parameter(torch.empty(2, width))
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width,
                max(width // 32, 1),
                4 * width,
                dropout=0.0,
                activation="gelu",
                batch_first=True,
                norm_first=True,
            )
            for _ in range(config.num_hidden_layers)
        )
        self.norm = nn.LayerNorm(width)
        self.depth_head = nn.Linear(width, config.patch**2)
        self.pose_head = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, 9))
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, MultiViewModel):
            nn.init.normal_(module.position, std=self.config.initializer_range)
            nn.init.normal_(module.camera, std=self.config.initializer_range)

    def resize(self, images: torch.Tensor) -> torch.Tensor:
        """[..., 3, h, w] in 0 to 1 → [..., 3, side, side]."""
        lead = images.shape[:-3]
        side = self.config.side
        resized = nn.functional.interpolate(
            images.flatten(0, -4) if len(lead) > 1 else images, (side, side), mode="bilinear", antialias=True
        )
        return resized.unflatten(0, lead) if len(lead) > 1 else resized

    def forward(self, images: torch.Tensor) -> MultiViewOutput:
        """`images` [B, V, 3, side, side] in 0 to 1."""
        batch, views = images.shape[:2]
        tokens = self.embed((images * 2 - 1).flatten(0, 1)).flatten(2).transpose(1, 2)
        camera = self.camera[[0] + [1] * (views - 1)].repeat(batch, 1)[:, None]
        states = torch.cat([camera, tokens], dim=1) + self.position
        for index, layer in enumerate(self.layers):
            if index % 2:  # across views
                states = layer(states.unflatten(0, (batch, views)).flatten(1, 2))
                states = states.unflatten(1, (views, -1)).flatten(0, 1)
            else:
                states = layer(states)
        states_BVND = self.norm(states).unflatten(0, (batch, views))
        features = states_BVND[:, :, 1:].unflatten(2, (self.cells, self.cells))
        patches = self.depth_head(features).unflatten(-1, (self.config.patch, self.config.patch))
        log_depth = patches.permute(0, 1, 2, 4, 3, 5).flatten(4, 5).flatten(2, 3)
        return MultiViewOutput(features=features, log_depth=log_depth, pose=self.pose_head(states_BVND[:, :, 0]))


__all__ = ["MultiViewConfig", "MultiViewModel", "MultiViewOutput"]
