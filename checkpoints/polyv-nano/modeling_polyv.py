# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""PolyV: Qwen2.5-VL with experts in some layers, time and coordinate encodings, and the `<synergy>` token.

Every class here shows only what differs from its Qwen2.5-VL parent.
"""

from typing import Any

import torch
from torch import nn
from transformers import initialization as init
from transformers.cache_utils import Cache
from transformers.modeling_outputs import BaseModelOutputWithPast, BaseModelOutputWithPooling
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import (
    Qwen2_5_VisionTransformerPretrainedModel,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLModel,
    Qwen2_5_VLPreTrainedModel,
    Qwen2_5_VLTextModel,
)
from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeTopKRouter
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs, auto_docstring, can_return_tuple
from transformers.utils.output_capturing import OutputRecorder

from .configuration_polyv import PolyVConfig, PolyVTextConfig
from .distributed_polyv import blank_media, trains_with_others
from .encodings import PolyVSinusoidalEncoding, PolyVSynergyHead, move_text_behind_videos
from .generation_polyv import PolyVGenerationMixin
from .moe import PolyVExperts, PolyVSparseMoeBlock, check_routers_learn, load_balancing_loss
from .outputs_polyv import PolyVCausalLMOutput
from .upcycling import read_dense_config, upcycle


class PolyVPreTrainedModel(Qwen2_5_VLPreTrainedModel):
    config: PolyVConfig

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        super()._init_weights(module)
        std = self.config.get_text_config().initializer_range
        if isinstance(module, PolyVExperts):
            init.normal_(module.gate_up_proj, mean=0.0, std=std)
            init.normal_(module.down_proj, mean=0.0, std=std)
        elif isinstance(module, Qwen3MoeTopKRouter):
            init.normal_(module.weight, mean=0.0, std=std)
        elif isinstance(module, PolyVSinusoidalEncoding):
            init.zeros_(module.weight)

    @classmethod
    def _can_set_experts_implementation(cls) -> bool:
        # transformers looks for the experts' decorator in this file's source, and caches what a parent class said.
        return True

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *model_args, config=None, **kwargs):
        r"""
        As [`PreTrainedModel.from_pretrained`]; and a Qwen2.5-VL checkpoint is upcycled: each expert becomes a copy of
        the dense FFN it replaces, and all else is taken over, so that the model computes what the checkpoint does
        until it is trained. Any argument of [`PolyVConfig`] or [`PolyVTextConfig`] shapes the result:

        ```python
        >>> PolyVForConditionalGeneration.from_pretrained("Qwen/Qwen2.5-VL-7B-Instruct", num_experts=2)
        ```

        `<synergy>` takes the embedding row that the tokenizer reads it from (see [`upcycle`]).

        Raises:
            ValueError: if the Qwen2.5-VL checkpoint lacks a weight or holds one that has no place here.
        """
        dense_config = read_dense_config(pretrained_model_name_or_path, config, kwargs)
        load = super().from_pretrained
        if dense_config is None:
            return load(pretrained_model_name_or_path, *model_args, config=config, **kwargs)
        return upcycle(cls, load, dense_config, pretrained_model_name_or_path, *model_args, config=config, **kwargs)


class PolyVTextModel(PolyVPreTrainedModel, Qwen2_5_VLTextModel):
    config: PolyVTextConfig
    _can_record_outputs = {
        **Qwen2_5_VLTextModel._can_record_outputs,
        "router_logits": OutputRecorder(Qwen3MoeTopKRouter, index=0),
    }

    def __init__(self, config: PolyVTextConfig):
        super().__init__(config)
        for layer_idx in config.moe_layers:
            self.layers[layer_idx].mlp = PolyVSparseMoeBlock(config)
        self.post_init()


@auto_docstring
class PolyVModel(PolyVPreTrainedModel, Qwen2_5_VLModel):
    def __init__(self, config: PolyVConfig):
        # Not the parent's __init__, which would build the dense decoder first.
        super(Qwen2_5_VLModel, self).__init__(config)
        self.visual = Qwen2_5_VisionTransformerPretrainedModel._from_config(config.vision_config)
        self.language_model = PolyVTextModel._from_config(config.text_config)
        hidden_size = config.text_config.hidden_size
        self.time_encoding = PolyVSinusoidalEncoding(1, config.time_num_frequencies, config.time_periods, hidden_size)
        self.coordinate_encoding = PolyVSinusoidalEncoding(
            num_axes=3,
            num_frequencies=config.coordinate_num_frequencies,
            periods=config.coordinate_periods,
            hidden_size=hidden_size,
            box=config.coordinate_box,
        )
        self.rope_deltas = None
        self.post_init()

    def get_rope_index(
        self,
        input_ids: torch.LongTensor,
        mm_token_type_ids: torch.IntTensor,
        image_grid_thw: torch.LongTensor | None = None,
        video_grid_thw: torch.LongTensor | None = None,
        second_per_grid_ts: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        **kwargs,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """
        As Qwen2.5-VL's, with one fault mended: there, what follows a video starts at `max(height, width)` even where
        the video's time reaches further, so that a prompt's text shares positions with the video while generation
        continues after it. Here it starts after the furthest position of the video on any axis.
        `config.mrope_upstream=True` keeps the fault.
        """
        position_ids, rope_deltas = super().get_rope_index(
            input_ids,
            mm_token_type_ids,
            image_grid_thw=image_grid_thw,
            video_grid_thw=video_grid_thw,
            second_per_grid_ts=second_per_grid_ts,
            attention_mask=attention_mask,
            **kwargs,
        )
        if self.config.mrope_upstream or video_grid_thw is None:
            return position_ids, rope_deltas

        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        return move_text_behind_videos(position_ids, mm_token_type_ids == 2, attention_mask.bool())

    def compute_3d_position_ids(self, input_ids=None, mm_token_type_ids=None, past_key_values=None, **kwargs):
        """As Qwen2.5-VL's, which gives up on `inputs_embeds`: `mm_token_type_ids` says where the media are as well."""
        if input_ids is None and (past_key_values is None or past_key_values.get_seq_length() == 0):
            self.rope_deltas = None  # of an earlier call
            # `get_rope_index` reads no more of `input_ids` than their shape and dtype.
            input_ids = None if mm_token_type_ids is None else mm_token_type_ids.long()
        return super().compute_3d_position_ids(
            input_ids=input_ids, mm_token_type_ids=mm_token_type_ids, past_key_values=past_key_values, **kwargs
        )

    @can_return_tuple
    @auto_docstring
    def get_image_features(
        self,
        pixel_values: torch.Tensor,
        image_grid_thw: torch.LongTensor | None = None,
        image_coords: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple | BaseModelOutputWithPooling:
        r"""
        image_coords (`torch.Tensor` of shape `(num_image_tokens, 3)`, *optional*):
            World coordinates (metres) of each merged visual token, in the order of `image_grid_thw`; NaN where a token
            has none: plain images, and pixels without valid depth.
        """
        outputs = super().get_image_features(pixel_values, image_grid_thw, **{**kwargs, "return_dict": True})
        sizes = [len(features) for features in outputs.pooler_output]
        if image_coords is None and trains_with_others(self):
            image_coords = outputs.pooler_output[0].new_full((sum(sizes), 3), torch.nan)
        if image_coords is not None:
            if image_coords.shape != (sum(sizes), 3):
                raise ValueError(
                    f"`image_coords` has shape {tuple(image_coords.shape)}, but the images of `image_grid_thw` make "
                    f"{sum(sizes)} visual tokens: expected ({sum(sizes)}, 3). Pass what the processor returned."
                )
            # `device_map="auto"` may place the encodings with the decoder, on another device than the vision tower.
            encoding = self.coordinate_encoding(image_coords).to(outputs.pooler_output[0].device).split(sizes)
            outputs.pooler_output = tuple(map(torch.add, outputs.pooler_output, encoding))
        return outputs

    @can_return_tuple
    @auto_docstring
    def get_video_features(
        self,
        pixel_values_videos: torch.Tensor,
        video_grid_thw: torch.LongTensor,
        second_per_grid_ts: torch.Tensor | list[float] | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple | BaseModelOutputWithPooling:
        r"""
        second_per_grid_ts (`torch.Tensor` of shape `(num_videos)`, *optional*):
            Seconds between two temporal grids of each video; 1 each where it is not given, as in `get_rope_index`.
        """
        outputs = super().get_video_features(pixel_values_videos, video_grid_thw, **{**kwargs, "return_dict": True})
        num_grids = video_grid_thw[:, 0].tolist()
        seconds = [1.0] * len(num_grids) if second_per_grid_ts is None else second_per_grid_ts
        times = [
            torch.arange(count, device=features.device, dtype=torch.float32)[:, None] * float(interval)
            for features, count, interval in zip(outputs.pooler_output, num_grids, seconds, strict=True)
        ]
        encodings = map(self.time_encoding, times)  # alone, the same to the last bit whatever stands beside a video
        if trains_with_others(self):
            encodings = self.time_encoding(torch.cat(times)).split(num_grids)
        outputs.pooler_output = tuple(
            features + encoded.to(features.device).repeat_interleave(len(features) // len(encoded), dim=0)
            for features, encoded in zip(outputs.pooler_output, encodings, strict=True)
        )
        return outputs

    @can_return_tuple
    @auto_docstring
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        use_cache: bool | None = None,
        pixel_values: torch.Tensor | None = None,
        pixel_values_videos: torch.Tensor | None = None,
        image_grid_thw: torch.LongTensor | None = None,
        video_grid_thw: torch.LongTensor | None = None,
        mm_token_type_ids: torch.IntTensor | None = None,
        second_per_grid_ts: torch.Tensor | None = None,
        image_coords: torch.Tensor | None = None,
        mm_encoder_outputs: dict[str, BaseModelOutputWithPooling] | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple | BaseModelOutputWithPast:
        r"""
        second_per_grid_ts (`torch.Tensor` of shape `(num_videos)`, *optional*):
            Seconds between two temporal grids of each video.
        image_coords (`torch.Tensor` of shape `(num_image_tokens, 3)`, *optional*):
            World coordinates (metres) of each merged visual token; NaN where a token has none.
        """
        if mm_encoder_outputs is not None and (pixel_values is not None or pixel_values_videos is not None):
            raise ValueError("`mm_encoder_outputs` came with pixels: pass the media either encoded or as pixels.")
        if inputs_embeds is None:
            inputs_embeds = self.get_input_embeddings()(input_ids)

        encoded, absent = dict(mm_encoder_outputs or {}), set()
        images = ("image", self.get_image_features, (pixel_values, image_grid_thw, image_coords))
        videos = ("video", self.get_video_features, (pixel_values_videos, video_grid_thw, second_per_grid_ts))
        for modality, encode, media in (images, videos):
            if media[0] is None and modality not in encoded and trains_with_others(self):
                absent.add(modality)
                media = blank_media(self.visual)
            if media[0] is not None:
                # Whatever the caller asked of us: the vision encoder's output is read by name, its states by nobody.
                encoded[modality] = encode(*media, **{**kwargs, "return_dict": True, "output_hidden_states": False})
        for modality, outputs in encoded.items():
            features = torch.cat(outputs.pooler_output, dim=0).to(inputs_embeds.device, inputs_embeds.dtype)
            if modality in absent:
                inputs_embeds = inputs_embeds + 0 * features.sum()
                continue
            named = {f"{modality}_features": features}
            image_mask, video_mask = self.get_placeholder_mask(input_ids, inputs_embeds=inputs_embeds, **named)
            inputs_embeds = inputs_embeds.masked_scatter(image_mask if modality == "image" else video_mask, features)
        if position_ids is None:
            position_ids = self.compute_3d_position_ids(
                input_ids=input_ids,
                image_grid_thw=image_grid_thw,
                video_grid_thw=video_grid_thw,
                second_per_grid_ts=second_per_grid_ts,
                inputs_embeds=inputs_embeds,
                attention_mask=attention_mask,
                past_key_values=past_key_values,
                mm_token_type_ids=mm_token_type_ids,
            )
        # Returned as it is: until transformers 5.22 the parent's forward drops the router logits here.
        return self.language_model(
            input_ids=None,
            position_ids=position_ids,
            attention_mask=attention_mask,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            **kwargs,
        )


class PolyVForConditionalGeneration(PolyVGenerationMixin, PolyVPreTrainedModel, Qwen2_5_VLForConditionalGeneration):
    # The loss is divided by the `num_items_in_batch` that Trainer counts, which makes gradient accumulation unbiased.
    accepts_loss_kwargs = True

    def __init__(self, config: PolyVConfig):
        # Not the parent's __init__, which would build the dense model first.
        super(Qwen2_5_VLForConditionalGeneration, self).__init__(config)
        self.model = PolyVModel(config)
        hidden_size = config.text_config.hidden_size
        self.lm_head = nn.Linear(hidden_size, config.text_config.vocab_size, bias=False)
        # f_mlp^t and f_mlp^g of the paper.
        self.temporal_head, self.spatial_head = (
            None if size is None or config.synergy_token_id is None else PolyVSynergyHead(hidden_size, size)
            for size in (config.temporal_teacher_size, config.spatial_teacher_size)
        )
        self.post_init()

    @can_return_tuple
    @auto_docstring
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.LongTensor | None = None,
        use_cache: bool | None = None,
        pixel_values: torch.Tensor | None = None,
        pixel_values_videos: torch.Tensor | None = None,
        image_grid_thw: torch.LongTensor | None = None,
        video_grid_thw: torch.LongTensor | None = None,
        mm_token_type_ids: torch.IntTensor | None = None,
        second_per_grid_ts: torch.Tensor | None = None,
        image_coords: torch.Tensor | None = None,
        output_router_logits: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        mm_encoder_outputs: dict[str, BaseModelOutputWithPooling] | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple | PolyVCausalLMOutput:
        r"""
        second_per_grid_ts (`torch.Tensor` of shape `(num_videos)`, *optional*):
            Seconds between two temporal grids of each video.
        image_coords (`torch.Tensor` of shape `(num_image_tokens, 3)`, *optional*):
            World coordinates (metres) of each merged visual token; NaN where a token has none.

        Raises:
            ValueError: the balance loss is asked for while reentrant checkpointing keeps gradients from the routers.

        Example:

        ```python
        >>> from polyv import PolyVForConditionalGeneration, PolyVProcessor

        >>> model = PolyVForConditionalGeneration.from_pretrained("checkpoints/polyv-nano")
        >>> processor = PolyVProcessor.from_pretrained("checkpoints/polyv-nano")
        >>> content = [{"type": "scene", "scene": "my_scene"}, {"type": "text", "text": "How many balls?"}]
        >>> messages = [{"role": "user", "content": content}]
        >>> inputs = processor.apply_chat_template(
        ...     messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
        ... )
        >>> generated = model.generate(**inputs, max_new_tokens=8)
        >>> processor.decode(generated[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        ```
        """
        text_config = self.config.text_config
        if output_router_logits is None:
            output_router_logits = text_config.output_router_logits
        wants_hidden_states = kwargs.pop("output_hidden_states", text_config.output_hidden_states)
        needs_hidden_states = self.config.synergy_layer != -1 and self.config.synergy_token_id is not None

        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            pixel_values=pixel_values,
            pixel_values_videos=pixel_values_videos,
            image_grid_thw=image_grid_thw,
            video_grid_thw=video_grid_thw,
            mm_token_type_ids=mm_token_type_ids,
            second_per_grid_ts=second_per_grid_ts,
            image_coords=image_coords,
            output_router_logits=output_router_logits,
            output_hidden_states=needs_hidden_states or wants_hidden_states,
            mm_encoder_outputs=mm_encoder_outputs,
            **{**kwargs, "return_dict": True},
        )
        hidden_states = outputs.last_hidden_state
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(hidden_states[:, kept])

        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=text_config.vocab_size, **kwargs)

        router_logits = outputs.get("router_logits") or None
        aux_loss = None
        if router_logits is not None:
            # A 4D mask, or generate's dict of masks, does not say which tokens are padding.
            mask = attention_mask if getattr(attention_mask, "ndim", None) == 2 else None
            aux_loss = load_balancing_loss(
                router_logits, text_config.num_experts, text_config.num_experts_per_tok, mask
            )
            check_routers_learn(self, router_logits)
            if loss is not None and labels is not None:
                share = 1.0
                if (num_items := kwargs.get("num_items_in_batch")) is not None:
                    # Trainer then sums the losses of its micro-batches, so each adds its share of the balance.
                    share = (labels[..., 1:] != -100).sum() / num_items
                loss = loss + share * text_config.router_aux_loss_coef * aux_loss.to(loss.device)

        return PolyVCausalLMOutput(
            loss=loss,
            aux_loss=aux_loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states if wants_hidden_states else None,
            attentions=outputs.attentions,
            router_logits=router_logits,
            **self._synergy(outputs, input_ids, inputs_embeds, past_key_values),
        )

    def _synergy(
        self,
        outputs: BaseModelOutputWithPast,
        input_ids: torch.Tensor | None,
        inputs_embeds: torch.Tensor | None,
        past_key_values: Cache | None,
    ) -> dict[str, Any]:
        """The heads' outputs at each `<synergy>`, [B, T, D] → [number of `<synergy>`, teacher size] each."""
        token_id, layer = self.config.synergy_token_id, self.config.synergy_layer
        hidden_states = outputs.last_hidden_state if layer == -1 else outputs.hidden_states[layer]
        # A decoding step never holds one, and must compile without a branch on data.
        if token_id is None or (past_key_values is not None and hidden_states.shape[1] == 1):
            return {}
        if input_ids is not None:
            is_synergy = input_ids == token_id
        else:
            is_synergy = (inputs_embeds == self.get_input_embeddings().weight[token_id]).all(dim=-1)
        is_synergy = is_synergy.to(hidden_states.device)
        if not is_synergy.any():
            return {}
        states = hidden_states[is_synergy]
        if layer not in (-1, self.config.text_config.num_hidden_layers):
            states = self.model.language_model.norm(states)  # which the last of them has been through
        return {
            "synergy_temporal": None if self.temporal_head is None else self.temporal_head(states),
            "synergy_spatial": None if self.spatial_head is None else self.spatial_head(states),
            "synergy_batch_index": is_synergy.nonzero()[:, 0],
        }


__all__ = [
    "PolyVCausalLMOutput",
    "PolyVForConditionalGeneration",
    "PolyVModel",
    "PolyVPreTrainedModel",
    "PolyVTextModel",
]
