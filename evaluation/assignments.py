# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""Which kind of token goes to which expert: what trainings log, and `polyv routing` measures.

Shape suffixes: B rows of a batch, T positions, N = B·T tokens, P pictures (images, and views of scenes), n their tokens,
E experts, K experts a token, L layers with experts, C kinds of token, S what is summed of a token and an expert: its
assignment (1/K if it goes there, else 0), and its router probability.
"""

from collections.abc import Sequence
from typing import Any

import torch


KINDS = ("text", "image", "video", "scene", "<synergy>")
"""What a token is: of the prompt's words and marks; of an image; of a video; of a view of a scene; `<synergy>`."""

_PADDING = -1


def token_kinds(inputs: dict[str, Any], pictures: Sequence[str] | None, config: Any) -> torch.Tensor:
    """What each token of a batch is: its index in `KINDS`, or -1 where it is padding. [B, T]

    Args:
        inputs: what the processor gave.
        pictures: "image" or "scene" for each row of `image_grid_thw`. None tells them by their coordinates, without
            waiting for the device; a view under which no depth at all was measured then counts as an image.
        config: of the PolyV.
    """
    ids_BT = inputs["input_ids"]
    device = ids_BT.device
    kinds_BT = torch.full_like(ids_BT, KINDS.index("text"))
    marks = {"image": config.image_token_id, "video": config.video_token_id, "<synergy>": config.synergy_token_id}
    for kind, token_id in marks.items():
        if token_id is not None:
            kinds_BT.masked_fill_(ids_BT == token_id, KINDS.index(kind))
    if "image_coords" in inputs:  # else there is no scene
        grid_P3, coordinates_n3 = inputs["image_grid_thw"], inputs["image_coords"]
        tokens_P = grid_P3.prod(-1) // config.vision_config.spatial_merge_size**2
        picture_n = torch.arange(len(grid_P3), device=device).repeat_interleave(
            tokens_P, output_size=len(coordinates_n3)
        )
        if pictures is None:
            measured_n = coordinates_n3.isfinite().any(-1)
            is_view_P = torch.zeros_like(tokens_P).index_add_(0, picture_n, measured_n.to(tokens_P.dtype)) > 0
        else:
            is_view_P = torch.tensor([kind == "scene" for kind in pictures], device=device)
        kinds_n = torch.where(is_view_P, KINDS.index("scene"), KINDS.index("image"))[picture_n]
        kinds_BT.masked_scatter_(ids_BT == config.image_token_id, kinds_n.to(kinds_BT.dtype))
    return kinds_BT.masked_fill(inputs["attention_mask"] == 0, _PADDING)


def count(router_logits: Sequence[torch.Tensor], kinds_BT: torch.Tensor, top_k: int) -> torch.Tensor:
    """Sums over the tokens of each kind of each row, [B, S, L, C, E]: of 1/K for each expert that a token goes to, and
    of the router's probabilities.

    Args:
        router_logits: one tensor [N, E] a layer, as PolyV returns them with `output_router_logits`.
        kinds_BT: as `token_kinds` gives it; padding counts nowhere.
        top_k: K.
    """
    num_rows, num_kinds = len(kinds_BT), len(KINDS)
    logits_NLE = torch.stack([logits_NE.to(kinds_BT.device) for logits_NE in router_logits], dim=1)
    probability_NLE = logits_NLE.float().softmax(-1)
    chosen_NLK = probability_NLE.topk(top_k, dim=-1).indices
    assigned_NLE = torch.zeros_like(probability_NLE).scatter_(-1, chosen_NLK, 1 / top_k)
    both_NSLE = torch.stack([assigned_NLE, probability_NLE], dim=1)
    # Padding has a cell of its own, dropped in the end: to pick the other tokens would wait for the device.
    rows_B1 = torch.arange(num_rows, device=kinds_BT.device)[:, None]
    cells_BT = torch.where(kinds_BT == _PADDING, num_rows * num_kinds, rows_B1 * num_kinds + kinds_BT)
    sums = both_NSLE.new_zeros(num_rows * num_kinds + 1, *both_NSLE.shape[1:])
    sums.index_add_(0, cells_BT.flatten(), both_NSLE)
    return sums[:-1].unflatten(0, (num_rows, num_kinds)).permute(0, 2, 3, 1, 4)
