# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""The mixture-of-experts block that replaces some feed-forward networks, and its load-balancing loss.

Shape suffixes: B batch, T positions, N = B·T tokens, D hidden size, E experts, K experts a token.
"""

import torch
from torch import nn
from transformers.integrations import use_experts_implementation
from transformers.models.qwen3_moe.modeling_qwen3_moe import (
    Qwen3MoeExperts,
    Qwen3MoeSparseMoeBlock,
    Qwen3MoeTopKRouter,
)

from .configuration_polyv import PolyVTextConfig


@use_experts_implementation
class PolyVExperts(Qwen3MoeExperts):
    """Qwen3-MoE's fused experts, with an eager path whose backward does not zero-fill.

    `experts_implementation` picks the path, as in transformers: `grouped_mm` (default), `batched_mm` or `eager`.
    """

    def forward(
        self, hidden_states_ND: torch.Tensor, top_k_index_NK: torch.Tensor, top_k_weights_NK: torch.Tensor
    ) -> torch.Tensor:
        output_ND = torch.zeros_like(hidden_states_ND)
        # Indexing the fused parameter inside the loop would make autograd allocate a full-size, mostly zero gradient
        # for every expert; one unbind has one backward, which stacks the experts' gradients.
        experts = zip(self.gate_up_proj.unbind(0), self.down_proj.unbind(0), strict=True)
        for expert_idx, (gate_up_proj, down_proj) in enumerate(experts):
            token_n, choice_n = torch.where(top_k_index_NK == expert_idx)
            gate_up = nn.functional.linear(hidden_states_ND[token_n], gate_up_proj)
            expert_output_nD = nn.functional.linear(self._apply_gate(gate_up), down_proj)
            expert_output_nD = expert_output_nD * top_k_weights_NK[token_n, choice_n, None]
            output_ND.index_add_(0, token_n, expert_output_nD.to(output_ND.dtype))
        return output_ND


class PolyVSparseMoeBlock(Qwen3MoeSparseMoeBlock):
    """MoE(x) = Σ_{i in top-k} P(x)_i · E_i(x), with P the softmax of a linear router (paper, section on the
    architecture); the K weights are normalised to sum to 1 unless `config.norm_topk_prob` is False."""

    def __init__(self, config: PolyVTextConfig):
        nn.Module.__init__(self)
        self.experts = PolyVExperts(config)
        self.gate = Qwen3MoeTopKRouter(config)


def load_balancing_loss(
    router_logits: tuple[torch.Tensor, ...],
    num_experts: int,
    top_k: int,
    attention_mask: torch.Tensor | None = None,
) -> torch.Tensor:
    r"""L_aux = E · Σ_i F_i · G_i of each MoE layer, averaged over the layers (paper, section on training).

    F_i is the fraction of the N·K assignments that go to expert i, G_i its mean router probability. Unlike
    transformers' `load_balancing_loss_func`, layers are not pooled before the product (two layers collapsed onto
    opposite experts would look balanced), and perfect balance scores 1 for every top-k.

    Args:
        router_logits: One tensor [N, E] for each MoE layer, tokens in row-major order of [B, T].
        num_experts: E.
        top_k: K.
        attention_mask: [B, T'], 0 where a position is padding; those count in neither F nor G. T' may exceed T when
            earlier positions are in a cache.

    Returns:
        Scalar float32 tensor, on the device of the first layer's logits.

    Raises:
        ValueError: if `router_logits` is empty (a dense model has no balance to keep).
    """
    if not router_logits:
        raise ValueError("`router_logits` is empty: the model has no MoE layer, so there is no load to balance.")
    device = router_logits[0].device
    keep_N = None
    if attention_mask is not None:
        num_tokens = router_logits[0].shape[0] // attention_mask.shape[0]
        keep_N = attention_mask[:, -num_tokens:].reshape(-1).bool()

    losses = []
    for logits_NE in router_logits:
        if keep_N is not None:
            logits_NE = logits_NE[keep_N.to(logits_NE.device)]
        probabilities_NE = logits_NE.float().softmax(dim=-1)
        chosen_NK = probabilities_NE.topk(top_k, dim=-1).indices
        assigned_E = torch.zeros(num_experts, device=logits_NE.device).scatter_add_(
            0, chosen_NK.flatten(), torch.ones(chosen_NK.numel(), device=logits_NE.device)
        )
        # A micro-batch of nothing but padding has no load: 0, not NaN.
        num_kept = max(len(probabilities_NE), 1)
        fraction_E, mean_E = assigned_E / (num_kept * top_k), probabilities_NE.sum(dim=0) / num_kept
        losses.append(num_experts * (fraction_E * mean_E).sum().to(device))
    return torch.stack(losses).mean()


def check_routers_learn(model: nn.Module, router_logits: tuple[torch.Tensor, ...]) -> None:
    """Raises ValueError where `model` trains routers of whose logits none has a gradient."""
    if not (model.training and torch.is_grad_enabled()) or any(logits.requires_grad for logits in router_logits):
        return
    if any(module.weight.requires_grad for module in model.modules() if isinstance(module, Qwen3MoeTopKRouter)):
        raise ValueError(
            "`use_reentrant=True` runs the layers without gradients, so the load-balancing loss would never reach "
            'the routers. Pass `gradient_checkpointing_kwargs={"use_reentrant": False}`, or train without that loss '
            "(`output_router_logits=False`)."
        )


__all__ = ["PolyVExperts", "PolyVSparseMoeBlock", "check_routers_learn", "load_balancing_loss"]
