# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""Adapters, as `trainable: lora` writes them: told from whole checkpoints, and merged into what they add to.

transformers loads an adapter's folder as its base with the adapter in place. That answers as it should, but who trains
it would save the adapter again, whatever trained. So training starts from whole checkpoints alone.
"""

import json
import os
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForImageTextToText, PreTrainedModel
from transformers.utils import find_adapter_config_file

from polyv.hub.checkpoints import check_name


FILES = ("adapter_config.json", "adapter_model*")
"""What PEFT saves of an adapter, beside a card."""

# Of Qwen2.5-VL's weights, before transformers 4.52.
_OLD_NAMES = {r"^model\.(?=(?:layers|embed_tokens|norm)\.)": "model.language_model.", r"^visual\.": "model.visual."}


def require_peft(what: str) -> None:
    """Refuse what needs PEFT where it is not installed.

    Args:
        what: the argument that asks for it, and what came, for the message.

    Raises:
        ImportError: it is not.
    """
    try:
        import peft  # noqa: F401
    except ImportError as error:
        message = f'{what}: it needs the package peft, which is missing. Install it with `pip install "polyv[lora]"`.'
        raise ImportError(message) from error


def check_whole(argument: str, name: str | os.PathLike) -> None:
    """Refuse what is no checkpoint's name, see `check_name`, and an adapter.

    Args:
        argument: the argument or option that `name` came by, for the message.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: `name` is an adapter.
    """
    check_name(argument, name)
    if is_adapter(name):
        raise ValueError(
            f"{argument}={name}: it is an adapter, which holds only what it adds to its base. Expected a whole checkpoint: "
            f"run `polyv export {name} DIR`, which merges the two, and give DIR."
        )


def is_adapter(name: str | os.PathLike) -> bool:
    """Whether the folder `name`, or the repository on the Hub, is of an adapter."""
    return find_adapter_config_file(str(name)) is not None


def read_base(folder: Path) -> str:
    """What the adapter in `folder` adds to: a folder, or a name on the Hub.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: the adapter names nothing, or another adapter.
    """
    file = folder / "adapter_config.json"
    base = json.loads(file.read_text(encoding="utf-8")).get("base_model_name_or_path")
    if not base:
        raise ValueError(f"{file}: it has no base_model_name_or_path. Write there what the adapter was trained on.")
    check_whole(f"{file}: base_model_name_or_path", base)
    return base


def load_merged(folder: Path, dtype: str = "float32") -> PreTrainedModel:
    """The base of the adapter in `folder`, with the adapter merged into its weights, on the CPU.

    Args:
        dtype: of the result. They are merged in float32, as the stages train, and rounded once.

    Raises:
        ImportError: PEFT is not installed.
        FileNotFoundError: the base is not there.
        ValueError: the base is neither a PolyV nor a Qwen2.5-VL, or not what the adapter was trained on.
    """
    require_peft(f"model={folder}")
    base = read_base(folder)
    from peft import PeftModel, get_peft_model_state_dict, load_peft_weights

    kind = AutoConfig.from_pretrained(base).model_type
    if kind not in ("polyv", "qwen2_5_vl"):
        raise ValueError(f"model={folder}: its base {base} is a {kind}; expected a polyv or a qwen2_5_vl.")
    model = AutoModelForImageTextToText.from_pretrained(base, dtype=torch.float32)
    try:
        adapted = PeftModel.from_pretrained(model, str(folder), key_mapping=_OLD_NAMES)
        # PEFT passes over weights that the base has no place for.
        kept = get_peft_model_state_dict(adapted)
        given = load_peft_weights(str(folder), device="cpu", key_mapping=_OLD_NAMES)
        fault = ", ".join(sorted(kept.keys() ^ given.keys())[:2])
    except (RuntimeError, ValueError) as error:
        fault = str(error)
    if fault:
        raise ValueError(
            f"model={folder}: its base {base} is not what it was trained on ({fault}). Let base_model_name_or_path in its "
            "adapter_config.json name that. An adapter trained with `upcycle: true` lacks what upcycling made: train anew "
            "from what `polyv upcycle` writes."
        )
    return adapted.merge_and_unload().to(getattr(torch, dtype))


__all__ = ["FILES", "check_whole", "is_adapter", "load_merged", "read_base", "require_peft"]
