# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""What names a checkpoint: a folder, or a repository on the Hub."""

import os
import re
from pathlib import Path

from transformers import PreTrainedModel, ProcessorMixin


_HUB_NAME = re.compile(r"[\w-][\w.-]*(/[\w.-]+)?")


def check_name(argument: str, name: str | os.PathLike) -> None:
    """Refuse what is neither a folder nor can be a name on the Hub, before the Hub's client is asked for it: of a
    mistyped path it says that it is no valid "repo id".

    Args:
        argument: the argument or option that `name` came by, for the message.

    Raises:
        FileNotFoundError: there is no such folder.
    """
    name = str(name)
    if Path(name).is_dir() or (_HUB_NAME.fullmatch(name) and not name.startswith("checkpoints/") and not is_run(name)):
        return
    earlier = " It is what an earlier stage writes: run that first (docs/training.md)." if is_run(name) else ""
    raise FileNotFoundError(
        f"{argument}={name}: there is no such folder.{earlier} Expected a checkpoint's, or OWNER/NAME on the Hub."
    )


def is_run(name: str) -> bool:
    """Whether `name` is of the folder that the recipes write to, which could pass for an owner's on the Hub."""
    return name.startswith("runs/")


def save_whole(model: PreTrainedModel, processor: ProcessorMixin, out: Path, card: str | None = None) -> Path:
    """Save both into the folder `out`, with the text of a card, if any; it appears whole or not at all. Returns `out`."""
    partial = out.with_name(f".{out.name}.partial")
    processor.save_pretrained(partial)
    model.save_pretrained(partial)
    if card is not None:
        (partial / "README.md").write_text(card, encoding="utf-8")
    partial.rename(out)
    return out
