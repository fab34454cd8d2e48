# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""Upcycling: a dense Qwen2.5-VL checkpoint becomes a PolyV whose experts are copies of the dense FFNs."""

import json
import os
import re
from collections.abc import Callable
from logging import LogRecord
from typing import Any

import torch
from transformers import AutoTokenizer, PreTrainedConfig, Qwen2_5_VLConfig
from transformers.conversion_mapping import get_checkpoint_conversion_mapping, register_checkpoint_conversion_mapping
from transformers.core_model_loading import ConversionOps, WeightConverter
from transformers.utils import cached_file, find_adapter_config_file, logging

from polyv.configuration.configuration_polyv import PolyVConfig, PolyVTextConfig
from polyv.processing.chat_template_polyv import SYNERGY_TOKEN


logger = logging.get_logger(__name__)

HUB_ARGUMENTS = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "subfolder", "token")
# What of a configuration decides the shapes of the weights.
SHAPES = (
    "depth", "hidden_size", "intermediate_size", "num_attention_heads", "num_hidden_layers", "num_key_value_heads",
    "out_hidden_size", "patch_size", "vocab_size",
)  # fmt: skip
# The fused weights of an MoE layer, and the dense matrices that make them.
FUSED = {"gate_up_proj": ("gate_proj", "up_proj"), "down_proj": ("down_proj",)}
# What PolyV has and no Qwen2.5-VL checkpoint holds.
NEW_WEIGHTS = re.compile(r"\.mlp\.gate\.weight$|(time|coordinate)_encoding\.|^(temporal|spatial)_head\.")


class CopyToExperts(ConversionOps):
    """Concatenates a dense FFN's matrices (gate above up; or down alone) and repeats the result for each expert:
    [I, D] (and [I, D]) → [E, 2·I or I, D]; [D, I] → [E, D, I]."""

    def __init__(self, num_experts: int):
        self.num_experts = num_experts

    def convert(self, input_dict: dict[str, Any], source_patterns: list[str], target_patterns: list[str], **kwargs):
        if any(pattern not in input_dict for pattern in source_patterns):
            return {}  # half an FFN: the target stays missing, and is reported as such
        matrix = torch.cat([input_dict[pattern][0] for pattern in source_patterns], dim=0)
        return {target_patterns[0]: matrix.unsqueeze(0).repeat(self.num_experts, 1, 1)}


def read_dense_config(
    pretrained_model_name_or_path, config: PreTrainedConfig | str | None, kwargs: dict[str, Any]
) -> Qwen2_5_VLConfig | None:
    """The configuration of the checkpoint if it is a Qwen2.5-VL, None if it is anything else.

    Raises:
        ValueError: if the checkpoint is an adapter of a Qwen2.5-VL.
    """
    if pretrained_model_name_or_path is None:
        return None
    hub = {name: kwargs[name] for name in HUB_ARGUMENTS if name in kwargs}
    adapter = find_adapter_config_file(pretrained_model_name_or_path, **hub)
    if adapter is not None:
        with open(adapter, encoding="utf-8") as file:
            base = json.load(file)["base_model_name_or_path"]
        if _model_type(base, hub) == "qwen2_5_vl":
            raise ValueError(
                f"{pretrained_model_name_or_path} is an adapter of {base}, a dense Qwen2.5-VL: what it adds to would be "
                "upcycled anew, with new routers. Upcycle the base once (`polyv upcycle`), set the adapter's "
                "base_model_name_or_path to the saved PolyV, and load that."
            )
        return None
    if _model_type(pretrained_model_name_or_path, hub) != "qwen2_5_vl":
        return None
    return Qwen2_5_VLConfig.from_pretrained(pretrained_model_name_or_path, **hub)


def _model_type(name, hub: dict[str, Any]) -> str | None:
    return PreTrainedConfig.get_config_dict(name, **hub)[0].get("model_type")


def _is_error(record: LogRecord) -> bool:
    return record.levelno >= logging.ERROR


def upcycle(
    cls,
    load: Callable,
    dense_config: Qwen2_5_VLConfig,
    pretrained_model_name_or_path,
    *model_args,
    config: PolyVConfig | None = None,
    **kwargs,
):
    r"""Load a Qwen2.5-VL checkpoint into a PolyV class; `from_pretrained` calls this, users need not.

    Routers, encodings and synergy heads are the only new weights, initialised as `_init_weights` says (the encodings
    at zero). With `norm_topk_prob=True` the expert weights sum to 1, so identical experts compute the dense FFN
    whatever the router says.

    `<synergy>` takes the id that the checkpoint's tokenizer gives it, or else the first id that this tokenizer leaves
    unused. Where the embedding has that row, the row stays as it is: also the logits then equal the dense model's on
    every column, tied embeddings or not. Where the vocabulary is full, the embedding grows by one row, the mean of
    the others. A checkpoint without a tokenizer is taken to use Qwen2.5-VL's own, whose first unused id is 151665;
    if its vocabulary is smaller than that, the model is left without `<synergy>`, with a warning.

    Args:
        cls: [`PolyVForConditionalGeneration`] or [`PolyVModel`].
        load: The parent class's `from_pretrained`, bound to `cls`.
        dense_config: The checkpoint's configuration.
        config: The configuration of the result; made from `dense_config` and the arguments in `kwargs` that belong
            to [`PolyVConfig`] and [`PolyVTextConfig`] where it is None.

    Raises:
        ValueError: if the weights do not fit `config`, or one is missing or has no place; the message lists them.
    """
    num_rows = dense_config.text_config.vocab_size
    config, synergy_row = plan_config(dense_config, pretrained_model_name_or_path, config, kwargs)

    with_loading_info = kwargs.pop("output_loading_info", False)
    # Conversions are looked up by class name and cannot be passed in: lend this class the dense one's for one load.
    dense_class = next(parent.__name__ for parent in cls.__mro__ if parent.__name__.startswith("Qwen2_5_VL"))
    renamings = get_checkpoint_conversion_mapping(dense_class) or []
    register_checkpoint_conversion_mapping(
        cls.__name__, [*renamings, *_converters(config.text_config)], overwrite=True
    )
    # Its report would list the new weights as if something had gone wrong. Not by its level, which transformers reads to
    # decide what else to report.
    reporter = logging.get_logger("transformers.modeling_utils")
    reporter.addFilter(_is_error)
    try:
        model, info = load(
            pretrained_model_name_or_path, *model_args, config=config, output_loading_info=True, **kwargs
        )
    finally:
        reporter.removeFilter(_is_error)
        register_checkpoint_conversion_mapping(cls.__name__, [], overwrite=True)
    # Saving would reverse the conversions of the load, and `CopyToExperts` has no reverse: a PolyV is saved as it is.
    model._weight_conversions = []

    _refuse_incomplete(pretrained_model_name_or_path, info, has_head=model.get_output_embeddings() is not None)
    if synergy_row is not None and synergy_row >= num_rows:
        _grow_vocabulary(model, synergy_row)
    return (model, info) if with_loading_info else model


def plan_config(
    dense_config: Qwen2_5_VLConfig,
    pretrained_model_name_or_path,
    config: PolyVConfig | Qwen2_5_VLConfig | str | os.PathLike | None,
    kwargs: dict[str, Any],
) -> tuple[PolyVConfig, int | None]:
    """What an upcycled checkpoint will be, and the embedding row of its `<synergy>`: None where it has none, a row that
    does not exist yet where the vocabulary has to grow.

    Args:
        kwargs: those that belong to [`PolyVConfig`] or [`PolyVTextConfig`] are taken out.

    Raises:
        ValueError: if the checkpoint's weights do not fit.
    """
    if config is None or isinstance(config, Qwen2_5_VLConfig):
        dense_config, num_rows = config or dense_config, dense_config.text_config.vocab_size
        fields = {**PolyVConfig.__dataclass_fields__, **PolyVTextConfig.__dataclass_fields__}
        overrides = {name: kwargs.pop(name) for name in list(kwargs) if name in fields and name != "dtype"}
        if "synergy_token_id" not in overrides:
            overrides["synergy_token_id"] = _find_synergy_row(pretrained_model_name_or_path, num_rows, kwargs)
        synergy_row = overrides["synergy_token_id"]
        if synergy_row is not None and synergy_row >= num_rows:
            overrides["synergy_token_id"] = 0  # any row that exists, until the embedding has grown
        config = PolyVConfig.from_dense(dense_config, **overrides)
    else:
        config = PolyVConfig.from_pretrained(config) if isinstance(config, str | os.PathLike) else config
        synergy_row = config.synergy_token_id
    refuse_other_shapes(pretrained_model_name_or_path, dense_config, config)
    return config, synergy_row


def _converters(config: PolyVTextConfig) -> list[WeightConverter]:
    # One for each MoE layer and matrix, since a dense layer's keys differ from it in their number only.
    return [
        WeightConverter(
            source_patterns=[rf"layers\.{layer_idx}\.mlp\.{name}\.weight" for name in sources],
            target_patterns=f"layers.{layer_idx}.mlp.experts.{target}",
            operations=[CopyToExperts(config.num_experts)],
        )
        for layer_idx in config.moe_layers
        for target, sources in FUSED.items()
    ]


def _find_synergy_row(pretrained_model_name_or_path, num_rows: int, kwargs: dict[str, Any]) -> int | None:
    hub = {name: kwargs[name] for name in HUB_ARGUMENTS if name in kwargs}
    # Asked for first: AutoTokenizer makes up an empty tokenizer for a folder that has none.
    has_tokenizer = any(
        cached_file(pretrained_model_name_or_path, file, _raise_exceptions_for_missing_entries=False, **hub)
        for file in ("tokenizer.json", "vocab.json")
    )
    if has_tokenizer:
        vocabulary = AutoTokenizer.from_pretrained(pretrained_model_name_or_path, **hub).get_vocab()
        return vocabulary.get(SYNERGY_TOKEN, max(vocabulary.values()) + 1)
    default = PolyVConfig.__dataclass_fields__["synergy_token_id"].default
    if default < num_rows:
        return default
    logger.warning(
        f"{pretrained_model_name_or_path} has no tokenizer and only {num_rows} embedding rows, so no row is known to "
        "be unused: the model is loaded without `<synergy>`. Pass `synergy_token_id=` to give it one."
    )
    return None


def refuse_other_shapes(name, dense: Qwen2_5_VLConfig, config: PolyVConfig) -> None:
    asked = {"moe_intermediate_size": (config.text_config.moe_intermediate_size, dense.text_config.intermediate_size)}
    for part in ("text_config", "vision_config"):
        theirs, ours = getattr(dense, part), getattr(config, part)
        for field in SHAPES:
            if hasattr(theirs, field):
                asked[f"{part}.{field}"] = (getattr(ours, field), getattr(theirs, field))
    differing = [f"`{field}` is {ours}, not {theirs}" for field, (ours, theirs) in asked.items() if ours != theirs]
    if differing:
        raise ValueError(f"The weights of {name} do not fit the configuration asked for: {'; '.join(differing)}.")


def _refuse_incomplete(name, info: dict[str, Any], has_head: bool) -> None:
    missing = sorted(_dense_name(key) for key in info["missing_keys"] if not NEW_WEIGHTS.search(key))
    unexpected = sorted(key for key in info["unexpected_keys"] if has_head or key != "lm_head.weight")
    if missing or unexpected:
        raise ValueError(
            f"{name} is no complete Qwen2.5-VL checkpoint. Missing weights: {missing or 'none'}. Unexpected weights: "
            f"{unexpected or 'none'}. Check that all its files are there and that its config.json describes them."
        )


def _dense_name(key: str) -> str:
    layer, is_fused, matrix = key.partition(".experts.")
    return f"{layer}.({' or '.join(FUSED[matrix])}).weight" if is_fused else key


@torch.no_grad()
def _grow_vocabulary(model, synergy_row: int) -> None:
    used = model.get_input_embeddings().weight.shape[0]
    model.resize_token_embeddings(synergy_row + 1, mean_resizing=False)
    for embedding in {model.get_input_embeddings(), model.get_output_embeddings()} - {None}:
        embedding.weight[used:] = embedding.weight[:used].mean(dim=0)
    model.config.synergy_token_id = synergy_row


__all__ = ["upcycle"]
