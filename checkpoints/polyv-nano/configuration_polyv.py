# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""PolyV's configuration: Qwen2.5-VL's, plus experts, the `<synergy>` token and two position encodings."""

import math
from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLTextConfig, Qwen3MoeConfig
from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLVisionConfig


def _of_experts(plan: dict[str, Any]) -> dict[str, Any]:
    # transformers renames its parallel styles between releases: take those of the installed one.
    return {pattern: style for pattern, style in plan.items() if ".experts" in pattern}


@strict
class PolyVTextConfig(Qwen2_5_VLTextConfig):
    r"""
    The decoder of Qwen2.5-VL, in which the feed-forward network (FFN) of some layers becomes a mixture of experts.

    A layer holds experts when `(layer_idx + 1) % decoder_sparse_step == 0` and it is not in `mlp_only_layers`, as in
    transformers' own MoE models. The paper's placements, for `L` layers:

    | placement | arguments |
    |---|---|
    | every 4th layer, 4 experts (the paper's) | the defaults |
    | every layer | `decoder_sparse_step=1` |
    | front half | `decoder_sparse_step=1, mlp_only_layers=list(range(L // 2, L))` |
    | 2 experts | `num_experts=2` |
    | dense | `num_experts=0` |

    Args:
        num_experts (`int`, *optional*, defaults to 4): Experts in each MoE layer; 0 makes every layer dense.
        num_experts_per_tok (`int`, *optional*, defaults to 2): Experts that each token is sent to (top-k).
        moe_intermediate_size (`int`, *optional*): Width of one expert. Defaults to `intermediate_size`, so that an
            expert can be built from the FFN it replaces.
        decoder_sparse_step (`int`, *optional*, defaults to 4): Every how many layers there is an MoE layer.
        mlp_only_layers (`list[int]`, *optional*, defaults to `[]`): Layers that stay dense.
        norm_topk_prob (`bool`, *optional*, defaults to `True`): Whether the weights of the chosen experts are
            normalised to sum to 1. Exact upcycling needs it; `False` gives the paper's formula read literally.
        router_aux_loss_coef (`float`, *optional*, defaults to 0.001): Weight of the load-balancing loss (the paper's
            alpha). The loss itself is 1 at perfect balance, whatever the top-k.
        output_router_logits (`bool`, *optional*, defaults to `False`): Whether the model returns its router logits,
            and adds the load-balancing loss to the language-model loss.

    Raises:
        ValueError: if the experts cannot be built as asked; the message names the argument.
    """

    model_type = "polyv_text"
    base_model_tp_plan = {
        **Qwen2_5_VLTextConfig.base_model_tp_plan,
        **_of_experts(Qwen3MoeConfig.base_model_tp_plan),
    }
    base_model_ep_plan = dict(Qwen3MoeConfig.base_model_ep_plan)  # in older releases the router has a part in it

    num_experts: int = 4
    num_experts_per_tok: int = 2
    moe_intermediate_size: int | None = None
    decoder_sparse_step: int = 4
    mlp_only_layers: list[int] | tuple[int, ...] | None = None
    norm_topk_prob: bool = True
    router_aux_loss_coef: float = 0.001
    output_router_logits: bool = False

    def __post_init__(self, **kwargs):
        self.mlp_only_layers = list(self.mlp_only_layers or ())
        if self.moe_intermediate_size is None:
            self.moe_intermediate_size = self.intermediate_size
        super().__post_init__(**kwargs)
        self._check_experts()

    @property
    def moe_layers(self) -> list[int]:
        """Indices of the layers that hold experts, in order; empty when the model is dense."""
        if self.num_experts == 0:
            return []
        dense = self.mlp_only_layers or ()
        return [
            layer_idx
            for layer_idx in range(self.num_hidden_layers)
            if (layer_idx + 1) % self.decoder_sparse_step == 0 and layer_idx not in dense
        ]

    def _check_experts(self) -> None:
        if self.num_experts < 0:
            raise ValueError(f"`num_experts` must be 0 (dense) or more, got {self.num_experts}.")
        if self.decoder_sparse_step < 1:
            raise ValueError(
                f"`decoder_sparse_step` must be at least 1, got {self.decoder_sparse_step}. "
                "For a dense model set `num_experts=0`."
            )
        outside = [layer for layer in self.mlp_only_layers or () if not 0 <= layer < self.num_hidden_layers]
        if outside:
            raise ValueError(
                f"`mlp_only_layers` names layers {outside}, but `num_hidden_layers` is {self.num_hidden_layers}: "
                f"use indices from 0 to {self.num_hidden_layers - 1}."
            )
        if self.router_aux_loss_coef < 0:
            raise ValueError(f"`router_aux_loss_coef` must be 0 or more, got {self.router_aux_loss_coef}.")
        if self.num_experts == 0:
            return
        if not 1 <= self.num_experts_per_tok <= self.num_experts:
            raise ValueError(
                f"`num_experts_per_tok` must be between 1 and `num_experts` ({self.num_experts}), "
                f"got {self.num_experts_per_tok}."
            )
        for name in ("hidden_size", "moe_intermediate_size"):
            if getattr(self, name) < 1 or getattr(self, name) % 8:
                raise ValueError(
                    f"`{name}` must be a multiple of 8, got {getattr(self, name)}: grouped_mm, the default experts "
                    "implementation, needs rows of whole 16 bytes, in bfloat16 too."
                )
        if not self.moe_layers:
            raise ValueError(
                f"No layer would hold experts: `decoder_sparse_step` is {self.decoder_sparse_step}, `mlp_only_layers` "
                f"is {self.mlp_only_layers} and `num_hidden_layers` is {self.num_hidden_layers}. Lower "
                "`decoder_sparse_step`, shorten `mlp_only_layers`, or set `num_experts=0` for a dense model."
            )


@strict
class PolyVConfig(Qwen2_5_VLConfig):
    r"""
    Configuration of [`PolyVModel`] and [`PolyVForConditionalGeneration`].

    Args:
        text_config (`dict` or [`PolyVTextConfig`], *optional*): The decoder.
        vision_config (`dict` or `Qwen2_5_VLVisionConfig`, *optional*): The vision encoder, Qwen2.5-VL's own.
        synergy_token_id (`int`, *optional*, defaults to 151665): Id of `<synergy>`: the first row of the embedding
            that Qwen2.5-VL's tokenizer leaves unused. `None` where the vocabulary has none.
        num_synergy_tokens (`int`, *optional*, defaults to 1): How many `<synergy>` open an assistant turn.
        synergy_layer (`int`, *optional*, defaults to -1): Which hidden state of `<synergy>` the heads read, an index into
            `hidden_states`: -1, as in the paper, the last; 4 what comes out of the fourth layer, so that the layers above
            can answer from what it foresees.
        temporal_teacher_size (`int`, *optional*, defaults to 1024): Feature size of the temporal teacher (V-JEPA 2
            ViT-L: 1024); `None` leaves out that head.
        spatial_teacher_size (`int`, *optional*, defaults to 2048): Feature size of the spatial teacher (VGGT's
            aggregator: 2048); `None` leaves out that head.
        time_num_frequencies (`int`, *optional*, defaults to 16), time_periods (*optional*, defaults to `[0.25, 512]`):
            The time encoding: number of sinusoids, and their shortest and longest period in seconds.
        coordinate_num_frequencies (`int`, *optional*, defaults to 16), coordinate_periods (*optional*, defaults to
            `[0.1, 40]`): The coordinate encoding: sinusoids an axis, and their shortest and longest period in metres.
        coordinate_box (*optional*, defaults to `[[-10, -10, -10], [10, 10, 10]]`): Lowest and highest corner, in
            metres, of the box to which world coordinates are clipped.
        mrope_upstream (`bool`, *optional*, defaults to `False`): Whether to number positions exactly as transformers'
            Qwen2.5-VL does, whose text after a long video falls back into the time of that video
            (see `PolyVModel.get_rope_index`).

    Raises:
        ValueError: on an impossible combination; the message names the argument.

    ```python
    >>> from polyv import PolyVConfig, PolyVForConditionalGeneration

    >>> configuration = PolyVConfig(text_config={"num_hidden_layers": 28, "decoder_sparse_step": 4})
    >>> configuration.text_config.moe_layers
    [3, 7, 11, 15, 19, 23, 27]
    ```
    """

    model_type = "polyv"
    # Of what the model returns, nothing but the logits is a prediction for `Trainer`'s `compute_metrics`.
    keys_to_ignore_at_inference = [
        *("past_key_values", "aux_loss", "router_logits", "rope_deltas"),
        *("synergy_temporal", "synergy_spatial", "synergy_batch_index"),
    ]
    # transformers reads the second name since 5.20, the first before.
    sub_configs = sub_configs_defaults = {"vision_config": Qwen2_5_VLVisionConfig, "text_config": PolyVTextConfig}

    synergy_token_id: int | None = 151665
    num_synergy_tokens: int = 1
    synergy_layer: int = -1
    temporal_teacher_size: int | None = 1024
    spatial_teacher_size: int | None = 2048
    time_num_frequencies: int = 16
    time_periods: list[float | int] | tuple[float | int, ...] = (0.25, 512.0)
    coordinate_num_frequencies: int = 16
    coordinate_periods: list[float | int] | tuple[float | int, ...] = (0.1, 40.0)
    coordinate_box: list[list[float | int]] | tuple[tuple[float | int, ...], ...] = (
        (-10.0, -10.0, -10.0),
        (10.0, 10.0, 10.0),
    )
    mrope_upstream: bool = False

    def __post_init__(self, **kwargs):
        given = self.vision_config
        super().__post_init__(**kwargs)
        if given is None or (isinstance(given, dict) and "out_hidden_size" not in given):
            self.vision_config.out_hidden_size = self.text_config.hidden_size
        self._check_vision()
        self._check_synergy()
        self._check_encodings()

    @classmethod
    def from_dense(cls, dense: Qwen2_5_VLConfig, **overrides) -> "PolyVConfig":
        """The configuration of a PolyV upcycled from `dense`.

        Args:
            dense: Configuration of a Qwen2.5-VL, or of a PolyV without experts.
            overrides: Any argument of [`PolyVConfig`] or of [`PolyVTextConfig`], by its name:
                `from_dense(dense, num_experts=2, decoder_sparse_step=1)`.

        Raises:
            TypeError: for an override that neither configuration knows.
            ValueError: for a combination that is impossible, or that the checkpoint's weights cannot fill.
        """
        values = dense.to_dict()
        text, vision = values.pop("text_config"), values.pop("vision_config")
        for config in (values, text):
            config.pop("model_type", None)
        values.pop("architectures", None)
        if text.get("num_experts") == 0:
            text.pop("num_experts")  # what `dense` lacks is what it is to get
        top_fields, text_fields = cls.__dataclass_fields__, PolyVTextConfig.__dataclass_fields__
        for name, value in overrides.items():
            if name in ("text_config", "vision_config"):
                raise TypeError(
                    f"`{name}` comes from the dense model; give the arguments to change by their own names."
                )
            # `vocab_size` and the like exist in both in some releases: the decoder is the one that uses them.
            if name in text_fields and name not in ("tie_word_embeddings", "dtype", "architectures"):
                text[name] = value
            elif name in top_fields:
                values[name] = value
            else:
                raise TypeError(f"`{name}` is no argument of PolyVConfig or PolyVTextConfig.")
        return cls(text_config=text, vision_config=vision, **values)

    def _check_vision(self) -> None:
        made, expected = self.vision_config.out_hidden_size, self.text_config.hidden_size
        if made != expected:
            raise ValueError(
                f"`vision_config.out_hidden_size` is {made}, but `text_config.hidden_size` is {expected}: visual tokens "
                "stand among text tokens and must be as wide. Leave it out to have it so."
            )

    def _check_synergy(self) -> None:
        vocab_size = self.text_config.vocab_size
        if self.synergy_token_id is not None and not 0 <= self.synergy_token_id < vocab_size:
            raise ValueError(
                f"`synergy_token_id` is {self.synergy_token_id}, but `text_config.vocab_size` is {vocab_size}: "
                "give an unused id of the vocabulary, or None for a model without `<synergy>`."
            )
        for name in ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id"):
            if self.synergy_token_id == getattr(self, name):
                raise ValueError(
                    f"`synergy_token_id` and `{name}` are both {self.synergy_token_id}: they must differ."
                )
        if self.num_synergy_tokens < 1:
            raise ValueError(
                f"`num_synergy_tokens` must be at least 1, got {self.num_synergy_tokens}. "
                "For a model without `<synergy>` set `synergy_token_id=None`."
            )
        num_layers = self.text_config.num_hidden_layers
        if self.synergy_layer != -1 and not 0 < self.synergy_layer <= num_layers:
            raise ValueError(
                f"`synergy_layer` is {self.synergy_layer}, but there are {num_layers} layers: give 1 to {num_layers}, or -1 "
                "for the last."
            )
        for name in ("temporal_teacher_size", "spatial_teacher_size"):
            size = getattr(self, name)
            if size is not None and size < 1:
                raise ValueError(f"`{name}` must be at least 1, or None for no such head, got {size}.")

    def _check_encodings(self) -> None:
        for kind in ("time", "coordinate"):
            if getattr(self, f"{kind}_num_frequencies") < 1:
                raise ValueError(
                    f"`{kind}_num_frequencies` must be at least 1, got {getattr(self, f'{kind}_num_frequencies')}."
                )
            periods = getattr(self, f"{kind}_periods")
            if len(periods) != 2 or not 0 < periods[0] <= periods[1] < math.inf:
                raise ValueError(
                    f"`{kind}_periods` must be two numbers, 0 < shortest <= longest, got {list(periods)}."
                )
        box = self.coordinate_box
        if [len(corner) for corner in box] != [3, 3] or not all(low < high for low, high in zip(*box, strict=True)):
            raise ValueError(
                "`coordinate_box` must be two corners [x, y, z], the first below the second on each axis, "
                f"got {[list(corner) for corner in box]}."
            )


__all__ = ["PolyVConfig", "PolyVTextConfig"]
