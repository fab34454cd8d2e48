# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""Routers that send each modality's tokens to the expert trained on it, before the experts are trained together.

A merged model's routers are random: a token goes to any two of its experts. Here each router is set to what tells the
modalities apart, by least squares on what it reads of some rows. All layers are set from one pass of the merged model.

Shape suffixes: N tokens, D hidden size, C kinds of token, E experts.
"""

import os
from collections.abc import Sequence
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm import tqdm
from transformers import AutoModelForImageTextToText, AutoProcessor

from polyv.evaluation.assignments import KINDS, token_kinds
from polyv.hub.cards import retold_card
from polyv.hub.checkpoints import save_whole
from polyv.hub.upcycle import MODALITIES, check_not_there
from polyv.recipes.collator import ConversationCollator
from polyv.recipes.data import read_source


class Moments:
    """Of what a router reads: for each kind of token how many, their sum, and the sum of their outer products."""

    def __init__(self, width: int):
        self.count_C = torch.zeros(len(KINDS), dtype=torch.float64)
        self.sum_CD = torch.zeros(len(KINDS), width, dtype=torch.float64)
        self.outer_CDD = torch.zeros(len(KINDS), width, width, dtype=torch.float64)

    def add(self, hidden_ND: torch.Tensor, kinds_N: torch.Tensor) -> None:
        """Count tokens; those of kind -1, padding, are left out."""
        for kind in kinds_N.unique().tolist():
            if kind >= 0:
                x_ND = hidden_ND[kinds_N == kind].double()
                self.count_C[kind] += len(x_ND)
                self.sum_CD[kind] += x_ND.sum(0)
                self.outer_CDD[kind] += x_ND.T @ x_ND

    def solve(self, expert_of_kind: Sequence[int], num_experts: int, strength: float) -> torch.Tensor:
        """The router [E, D] whose logits are nearest to `strength` for a token's own expert and 0 for others, but for
        what they have in common, which a softmax does not see. Kinds count alike, however many tokens each has."""
        there = self.count_C > 0
        count_C = self.count_C[there]
        outer_DD = (self.outer_CDD[there] / count_C[:, None, None]).mean(0)
        target_CE = torch.eye(num_experts, dtype=torch.float64)[torch.tensor(expert_of_kind)[there]] - 1 / num_experts
        cross_DE = (self.sum_CD[there] / count_C[:, None]).T @ target_CE / len(count_C)
        width = len(outer_DD)
        ridge_DD = 1e-3 * outer_DD.diagonal().mean() * torch.eye(width, dtype=torch.float64)
        return strength * torch.linalg.solve(outer_DD + ridge_DD, cross_DE).T


def warm_routers(
    source: str | os.PathLike,
    out: str | os.PathLike,
    experts: Sequence[str],
    dataset: str | os.PathLike,
    rows: int = 256,
    strength: float = 2.0,
    seed: int = 0,
    batch_size: int = 8,
    progress: bool = True,
) -> Path:
    """Write a merged checkpoint with its routers set by modality; its other weights stay as they are.

    Args:
        source: folder of a PolyV with experts, as `polyv merge` makes it.
        out: folder to write; it must not exist.
        experts: the name of each expert: "image", "scene", "video", or "general", which text and `<synergy>` go to, and
            modalities without an expert of their own.
        dataset: rows of conversations, as `polyv train` takes them.
        rows: how many of them are read, drawn at random.
        strength: logit of a token's own expert over the others', where the modality is told without a doubt.
        seed: of the draw.
        batch_size: rows at once.
        progress: show a progress bar.

    Returns:
        `out`.

    Raises:
        FileExistsError: `out` exists.
        RowError: a row cannot be read, or has no messages.
        ValueError: `experts` are not those of the checkpoint, lack "general" or repeat a modality; `source` has none.
    """
    out = Path(out)
    check_not_there(out)
    model = AutoModelForImageTextToText.from_pretrained(source)
    number = getattr(model.config.text_config, "num_experts", 0)
    known = (*MODALITIES, "general")
    if len(experts) != number or len(set(experts)) != number or set(experts) - set(known) or "general" not in experts:
        raise ValueError(
            f"experts={list(experts)}: {source} has {number} experts; expected a name for each, of {', '.join(known)}, "
            '"general" among them.'
        )
    processor = AutoProcessor.from_pretrained(source)
    moments = _read(model, processor, dataset, rows, seed, batch_size, progress)
    general = list(experts).index("general")
    expert_of_kind = [list(experts).index(kind) if kind in experts else general for kind in KINDS]
    with torch.no_grad():
        for gate, seen in moments.items():
            gate.weight.copy_(seen.solve(expert_of_kind, number, strength))
    remark = f"Its routers were set from rows of {Path(dataset).name}, to send tokens of each modality to its expert."
    return save_whole(model, processor, out, retold_card(source, out.name, remark))


@torch.inference_mode()
def _read(
    model: Any, processor: Any, dataset: Any, rows: int, seed: int, batch_size: int, progress: bool
) -> dict[Any, Moments]:
    """What each router reads of some rows."""
    layers = model.config.text_config.moe_layers
    gates = [model.model.language_model.layers[layer].mlp.gate for layer in layers]
    moments = {gate: Moments(gate.weight.shape[1]) for gate in gates}
    read: dict[nn.Module, torch.Tensor] = {}
    hooks = [gate.register_forward_pre_hook(lambda gate, given: read.update({gate: given[0]})) for gate in gates]
    chosen = read_source(str(dataset)).shuffle(seed=seed)
    chosen = chosen.select(range(min(rows, len(chosen))))
    collate = ConversationCollator(processor, signature(model.forward).parameters.keys() - {"labels"})
    model.eval()
    try:
        for start in tqdm(range(0, len(chosen), batch_size), desc="routers", unit="batch", disable=not progress):
            inputs = collate(list(chosen.select(range(start, min(start + batch_size, len(chosen))))))
            model(**inputs, use_cache=False, logits_to_keep=1)
            kinds_N = token_kinds(inputs, None, model.config).flatten()
            for gate, seen in moments.items():
                seen.add(read[gate].reshape(len(kinds_N), -1), kinds_N)
    finally:
        for hook in hooks:
            hook.remove()
    return moments


__all__ = ["Moments", "warm_routers"]
