# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""Where and when a visual token is: additive encodings of time and of world coordinates, positions around videos; and
the synergy heads.

Shape suffixes: N visual tokens, A axes (1 for time, 3 for coordinates), F frequencies, D hidden size; B batch, T
positions.
"""

import math
from collections.abc import Sequence

import torch
from torch import nn


class PolyVSinusoidalEncoding(nn.Module):
    """Sine and cosine of each axis at geometrically spaced periods, then a zero-initialised linear map to D.

    Being zero, the map leaves an upcycled model exactly its backbone until it is trained. Tokens without a value
    (any axis NaN) get a zero encoding, which training does not change.

    Args:
        num_axes: A.
        num_frequencies: F, for each axis.
        periods: Shortest and longest period, in the unit of the values.
        hidden_size: D.
        box: Lowest and highest corner to which values are clipped, each of length A; None clips nothing.
    """

    def __init__(
        self,
        num_axes: int,
        num_frequencies: int,
        periods: Sequence[float],
        hidden_size: int,
        box: Sequence[Sequence[float]] | None = None,
    ):
        super().__init__()
        self.num_frequencies = num_frequencies
        self.periods = tuple(periods)
        self.box = box
        # A bare weight, since an nn.Linear would be initialised as one. No bias: the cosine of the longest period is
        # close to one and serves as such.
        self.weight = nn.Parameter(torch.zeros(hidden_size, 2 * num_axes * num_frequencies))

    def forward(self, values_NA: torch.Tensor) -> torch.Tensor:
        """[N, A] seconds or metres → [N, D], in the dtype of the weights."""
        known_N1 = ~values_NA.isnan().any(dim=-1, keepdim=True)
        values_NA = values_NA.float().nan_to_num()
        if self.box is not None:
            low_A, high_A = torch.tensor(self.box, dtype=torch.float32, device=values_NA.device)
            values_NA = values_NA.clamp(low_A, high_A)
        shortest, longest = (math.log(period) for period in self.periods)
        periods_F = torch.linspace(shortest, longest, self.num_frequencies, device=values_NA.device).exp()
        # Angles in float32 whatever the model's dtype: bfloat16 cannot tell 10.00 m from 10.03 m.
        angles_NAF = values_NA[..., None] * (2 * math.pi / periods_F)
        features = torch.cat([angles_NAF.sin(), angles_NAF.cos()], dim=-1).flatten(1)
        return nn.functional.linear((features * known_N1).to(self.weight.dtype), self.weight)


def move_text_behind_videos(
    position_ids: torch.Tensor, is_video_BT: torch.Tensor, is_token_BT: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mend the positions that Qwen2.5-VL gives to what follows a video.

    Upstream, the token after a video stands `max(height, width)` behind its start, though the video's time may reach
    further. Here it stands behind the furthest position of the video on any axis.

    Args:
        position_ids: [3, B, T] (time, height, width), as upstream counts them.
        is_video_BT: Whether a token belongs to a video; each run of them is one video.
        is_token_BT: False where a position is padding.

    Returns:
        The positions, and [B, 1]: how far the next position lies beyond the number of tokens (`rope_deltas`).
    """
    is_video_BT = is_video_BT & is_token_BT
    beside = nn.functional.pad(is_video_BT, (1, 1))
    first_BT, last_BT = is_video_BT & ~beside[:, :-2], is_video_BT & ~beside[:, 2:]
    time, height, width = position_ids[:, last_BT] - position_ids[:, first_BT] + 1  # extents, one for each video
    shift_BT = torch.zeros_like(position_ids[0])
    shift_BT[last_BT] = (time - torch.maximum(height, width)).clamp(min=0)
    shift_BT = (shift_BT.cumsum(dim=1) - shift_BT) * is_token_BT
    position_ids = position_ids + shift_BT
    return position_ids, (position_ids.amax(dim=(0, 2)) + 1 - is_token_BT.sum(dim=1)).unsqueeze(1)


class PolyVSynergyHead(nn.Sequential):
    """f_mlp of the paper: the hidden state of `<synergy>` → a teacher's feature, [n, D] → [n, teacher size]."""

    def __init__(self, hidden_size: int, teacher_size: int):
        super().__init__(nn.Linear(hidden_size, hidden_size), nn.GELU(), nn.Linear(hidden_size, teacher_size))


__all__ = ["PolyVSinusoidalEncoding", "PolyVSynergyHead", "move_text_behind_videos"]
