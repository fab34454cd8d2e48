# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""What PolyV returns."""

from dataclasses import dataclass

import torch
from transformers.modeling_outputs import MoeCausalLMOutputWithPast


@dataclass
class PolyVCausalLMOutput(MoeCausalLMOutputWithPast):
    """
    Adds to `MoeCausalLMOutputWithPast`:

    Args:
        aux_loss (`torch.FloatTensor`, scalar, *optional*): Load-balancing loss, per layer, averaged over the
            MoE layers; 1 is perfect balance. Present when `output_router_logits=True` and the model has experts.
        synergy_temporal (`torch.FloatTensor` of shape `(num_synergy, temporal_teacher_size)`, *optional*): What each
            `<synergy>` of the batch says about motion, row-major over batch and position. `None` where the inputs
            hold no `<synergy>` or the model no such head.
        synergy_spatial (`torch.FloatTensor` of shape `(num_synergy, spatial_teacher_size)`, *optional*): The same
            about geometry.
        synergy_batch_index (`torch.LongTensor` of shape `(num_synergy,)`, *optional*): The batch row of each.
    """

    synergy_temporal: torch.FloatTensor | None = None
    synergy_spatial: torch.FloatTensor | None = None
    synergy_batch_index: torch.LongTensor | None = None


__all__ = ["PolyVCausalLMOutput"]
