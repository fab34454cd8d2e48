# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""Where PolyV's generation differs from Qwen2.5-VL's: positions of media in `inputs_embeds`, and conversations that go
on from their cache, whose earlier media are not encoded again."""

from typing import Any

import torch
from transformers import GenerationMixin


class PolyVGenerationMixin(GenerationMixin):
    def generate(self, inputs: torch.Tensor | None = None, *args, **kwargs):
        """As transformers'; and `past_key_values` of an earlier turn may come with the whole conversation and all of its
        media: those of turns in the cache are not encoded again. Where the new turn has none, they may be left out. The
        conversation must begin with the tokens that the cache was made of, as the chat template writes earlier turns; a
        cache does not tell whether it does.

        ```python
        >>> turn = model.generate(**inputs, return_dict_in_generate=True)
        >>> messages += [{"role": "assistant", "content": answer}, {"role": "user", "content": next_question}]
        >>> inputs = processor.apply_chat_template(messages, ...)
        >>> model.generate(**inputs, past_key_values=turn.past_key_values)
        ```

        Raises:
            ValueError: the cache holds part of a medium, or other rows than the conversation; or such a conversation
                comes with padding but no `attention_mask`, with media that are encoded already, or with some of its media
                and not all; or only its new turn comes, with media.
        """
        cache, types = kwargs.get("past_key_values"), kwargs.get("mm_token_type_ids")
        past_length = 0 if cache is None else cache.get_seq_length()
        if cache is not None and past_length and hasattr(cache, "rope_deltas"):
            self.model.rope_deltas = (
                cache.rope_deltas
            )  # the model's own are of what it was given last, whatever that was
        prompt = next(
            (x for x in (kwargs.get("inputs_embeds"), kwargs.get("input_ids"), inputs) if x is not None), None
        )
        # As an assistant, the model is called with what it was given before, less what it drops itself.
        assists = getattr(kwargs.get("generation_config"), "is_assistant", False)
        if past_length and types is not None and prompt is not None and not assists:
            mask = kwargs.get("attention_mask")
            if mask is None or mask.shape[1] == prompt.shape[1]:
                kwargs = self._continue_from(past_length, prompt, kwargs)
            elif types[:, -prompt.shape[1] :].any():
                # Upstream would give them positions as if they were text.
                raise ValueError(
                    f"`input_ids` holds {prompt.shape[1]} of the {mask.shape[1]} positions of `attention_mask`, media among "
                    "them: a new turn with media cannot come alone. Pass the whole conversation with all of its media; "
                    "those in the cache are not encoded again."
                )
        result = super().generate(inputs, *args, **kwargs)
        for made in (cache, getattr(result, "past_key_values", None)):
            if made is not None:
                made.rope_deltas = self.model.rope_deltas
        return result

    def _continue_from(self, past_length: int, prompt: torch.Tensor, kwargs: dict[str, Any]) -> dict[str, Any]:
        """The arguments of `generate` for a whole conversation, less what the cache holds of its media."""
        if kwargs.get("mm_encoder_outputs") is not None:
            raise ValueError("`mm_encoder_outputs` came with a cache: pass the conversation's media as pixels.")
        if prompt.shape[1] <= past_length:
            raise ValueError(
                f"`past_key_values` holds {past_length} positions, but the prompt {prompt.shape[1]}: pass the whole "
                "conversation; or its new turn, if that has no media, with an `attention_mask` of all positions."
            )
        keys = kwargs["past_key_values"].layers[0].keys
        rows = len(prompt) if keys.numel() == 0 else keys.shape[0]  # a quantised cache keeps them elsewhere
        has_media = any(kwargs.get(names[0]) is not None for _, names, _, _ in _KINDS.values())
        if has_media and rows != len(prompt):
            raise ValueError(
                f"`past_key_values` holds {rows} rows, but the prompt {len(prompt)}: repeat the conversation and its media "
                "as the sequences of the earlier turn were, or continue one of them."
            )
        if kwargs.get("attention_mask") is None:
            pad = self.config.text_config.pad_token_id
            if not prompt.is_floating_point() and pad is not None and (prompt == pad).any():
                raise ValueError(
                    "`attention_mask` is missing, and the prompt holds padding: pass what the processor gave."
                )
            kwargs["attention_mask"] = torch.ones(prompt.shape[:2], dtype=torch.long, device=prompt.device)
        if kwargs.get("position_ids") is None and self._has_all_media(past_length, kwargs):
            # Of the whole conversation with all of its media, whatever was generated since the earlier turn.
            kwargs["position_ids"] = self._prepare_position_ids_for_generation(
                prompt, {**kwargs, "past_key_values": None}
            )
        return without_cached_media(kwargs, past_length, self.config.vision_config.spatial_merge_size)

    def _has_all_media(self, past_length: int, kwargs: dict[str, Any]) -> bool:
        """Whether the media of a whole conversation came. Where none did, and none are new, positions go on from the cache's.

        Raises:
            ValueError: some came.
        """
        types, merged = kwargs["mm_token_type_ids"], self.config.vision_config.spatial_merge_size**2
        complete, came = True, False
        for token_type, _, (name, *_), _ in _KINDS.values():
            grids, held = kwargs.get(name), int((types == token_type).sum())
            given = 0 if grids is None else int(grids.prod(-1).sum()) // merged
            complete, came = complete and given == held, came or grids is not None
            if given != held and (came or types[:, past_length:].any()):
                raise ValueError(
                    f"`{name}` tells of {given} tokens, but the prompt holds {held}: pass the whole conversation with all of "
                    "its media. Those in the cache are not encoded again."
                )
        return complete

    def _expand_multimodal_outputs(self, input_ids, mm_encoder_output, expand_size=1, inputs_embeds=None):
        """For beams and several sequences: the media of each row, all of them in turn, as often as the row is repeated.

        transformers does so too, but in 5.18 repeats each medium on its own: the views of a scene would come apart.
        """
        for modality, outputs in mm_encoder_output.items():
            if outputs is None:
                continue
            token_id = getattr(self.config, f"{modality}_token_id")
            if input_ids is None or input_ids.numel() == 0:
                is_medium = (inputs_embeds == self.get_input_embeddings().weight[token_id]).all(-1)
            else:
                is_medium = input_ids == token_id
            media, expanded = iter(outputs.pooler_output), []
            for count in is_medium.sum(-1).tolist():
                of_row: list[torch.Tensor] = []
                while sum(len(one) for one in of_row) < count:
                    of_row.append(next(media))
                expanded += of_row * expand_size
            outputs.pooler_output = tuple(expanded)
        return mm_encoder_output

    def _prepare_position_ids_for_generation(self, inputs_tensor, model_kwargs):
        token_types = model_kwargs.get("mm_token_type_ids")
        if inputs_tensor.is_floating_point() and token_types is not None:
            inputs_tensor = token_types.long()  # see `PolyVModel.compute_3d_position_ids`
        return super()._prepare_position_ids_for_generation(inputs_tensor, model_kwargs)


# Of each kind: its value in `mm_token_type_ids`, and its inputs by patch, by medium and by merged token.
_KINDS: dict[str, tuple[int, list[str], list[str], list[str]]] = {
    "image": (1, ["pixel_values"], ["image_grid_thw"], ["image_coords"]),
    "video": (2, ["pixel_values_videos"], ["video_grid_thw", "second_per_grid_ts"], []),
}


def without_cached_media(inputs: dict[str, Any], past_length: int, merge_size: int) -> dict[str, Any]:
    """The arguments of `generate` for a whole conversation, less the media of its first `past_length` positions.

    Args:
        inputs: with `mm_token_type_ids` [B, T], and media in the row-major order of their tokens.
        past_length: how many positions of each row are in the cache.
        merge_size: of the vision encoder, which makes one token of `merge_size`² patches.

    Raises:
        ValueError: the cache ends within a medium.
    """
    left = dict(inputs)
    for token_type, by_patch, by_medium, by_token in _KINDS.values():
        grids = inputs.get(by_medium[0])
        if grids is None or inputs.get(by_patch[0]) is None:
            continue
        patches = grids.prod(-1)
        tokens = patches // merge_size**2
        columns = (inputs["mm_token_type_ids"] == token_type).nonzero()[:, 1]
        ends = tokens.cumsum(0)
        is_new = columns[ends - tokens] >= past_length
        if (columns[ends - 1][~is_new] >= past_length).any():
            raise ValueError(
                f"`past_key_values` ends at position {past_length}, within the tokens of a medium. Crop it to where a "
                "turn ends."
            )
        for names, each in ((by_patch, patches), (by_medium, torch.ones_like(patches)), (by_token, tokens)):
            for name in names:
                value = left.pop(name, None)
                if value is not None and is_new.any():
                    left[name] = torch.as_tensor(value)[is_new.repeat_interleave(each)]
    return left


__all__ = ["PolyVGenerationMixin"]
