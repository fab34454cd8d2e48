# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""Cards of checkpoints, README.md: what their licence is, and where one comes from that nothing has trained yet."""

import os
import re
from collections.abc import Mapping
from pathlib import Path

from huggingface_hub import ModelCard, ModelCardData

from polyv.configuration.configuration_polyv import PolyVConfig


LOAD = """\
```python
{imports}from transformers import AutoModelForImageTextToText, AutoProcessor

model = AutoModelForImageTextToText.from_pretrained("{where}")
processor = AutoProcessor.from_pretrained("{where}")
```
"""
IMPORT = "import polyv  # teaches transformers the classes\n"


def write_card(folder: str | os.PathLike, text: str, base_model: str | None, tags: list[str]) -> None:
    """Write README.md with its metadata; the licence is the base model's."""
    data = ModelCardData(
        library_name="transformers",
        pipeline_tag="image-text-to-text",
        # The Hub takes only names of its own here.
        base_model=None if base_model is None or os.path.isdir(base_model) else base_model,
        license=read_licence(base_model),
        tags=tags,
    )
    ModelCard(f"---\n{data.to_yaml()}\n---\n\n{text}").save(os.path.join(folder, "README.md"))


def write_upcycled_card(
    folder: Path, name: str, source: str, merge: Mapping[str, str | os.PathLike], config: PolyVConfig
) -> None:
    """The card of what `polyv upcycle` and `polyv merge` write into `folder`, whose name is to be `name`."""
    layers, text = config.text_config.moe_layers, config.text_config
    lines = [f"# {name}\n"]
    if not layers:
        lines.append(f"A PolyV made of {source}, without experts. Nothing has trained it since.")
    else:
        lines.append(
            f"A PolyV made of {source}: {text.num_experts} experts, {text.num_experts_per_tok} for each token, in "
            f"{len(layers)} of {text.num_hidden_layers} layers ({', '.join(map(str, layers))}). Nothing has trained it since."
        )
    if merge:
        lines.append("\nOf each such layer the experts are the feed-forward networks of\n")
        lines += [f"- {modality}: {where}" for modality, where in merge.items()]
        lines.append(f"- the rest: {source}")
    else:
        lines.append(f"It answers as {source} does.")
    lines.append("\n" + LOAD.format(imports=IMPORT, where=name))
    write_card(folder, "\n".join(lines), source, ["polyv"])


def retold_card(folder: str | os.PathLike, name: str, remark: str) -> str | None:
    """The card of the checkpoint in `folder` as that of one called `name`, with a remark at its end; None where it has
    no card."""
    file = Path(folder) / "README.md"
    if not file.is_file():
        return None
    text = file.read_text(encoding="utf-8")
    if title := re.search(r"^# (.+)$", text, re.MULTILINE):
        text = text.replace(title[0], f"# {name}")
    text = re.sub(r'(?<=from_pretrained\()"[^"]*"(?=\))', lambda _: f'"{name}"', text)
    return f"{text.rstrip()}\n\n{remark}\n"


def read_licence(base_model: str | None) -> str:
    """The licence that the card of `base_model` names: weights made of others stand under theirs. "unknown", as the
    Hub calls it, where there is no card or no base model: what licence new weights get, only their owner can say."""
    if base_model is None:
        return "unknown"
    card = os.path.join(base_model, "README.md") if os.path.isdir(base_model) else base_model
    try:
        return ModelCard.load(card, ignore_metadata_errors=True).data.license or "unknown"
    except (OSError, ValueError):  # no card, or no network
        return "unknown"


__all__ = ["read_licence", "retold_card", "write_card", "write_upcycled_card"]
