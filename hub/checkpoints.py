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
    if not Path(name).is_dir() and (name.startswith("checkpoints/") or not _HUB_NAME.fullmatch(name)):
        raise FileNotFoundError(
            f"{argument}={name}: there is no such folder. Expected a checkpoint's, or OWNER/NAME on the Hub."
        )


def save_whole(model: PreTrainedModel, processor: ProcessorMixin, out: Path) -> Path:
    """Save both into the folder `out`, which appears whole or not at all; returns it."""
    partial = out.with_name(f".{out.name}.partial")
    processor.save_pretrained(partial)
    model.save_pretrained(partial)
    partial.rename(out)
    return out
