# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""Files of weights: where each lies in a checkpoint, and how to copy it into another without holding it in memory."""

import json
import math
import os
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError, safe_open
from transformers import Qwen2_5_VLForConditionalGeneration
from transformers.conversion_mapping import get_checkpoint_conversion_mapping
from transformers.core_model_loading import rename_source_key


_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_LONGEST_NAME = 255  # bytes, on all file systems in use
_PIECE = 1 << 20  # bytes in memory while they are copied: few enough that no new page is needed for them


def _copy(source: FileIO, out: BinaryIO, count: int) -> int:
    """Copy at most `count` bytes from where `source` stands to where `out`, flushed, does: within the system, where it can."""
    try:
        return os.copy_file_range(source.fileno(), out.fileno(), count)
    except (AttributeError, OSError):  # not on Linux, or not between these file systems
        piece = source.read(min(count, _PIECE))
        out.write(piece)
        out.flush()
        return len(piece)


@dataclass(frozen=True)
class Stored:
    """Where a weight lies in a checkpoint: under which key, and from which byte of which file on."""

    file: Path
    key: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    start: int

    def read(self) -> torch.Tensor:
        with safe_open(self.file, "pt") as weights:
            return weights.get_tensor(self.key)

    def copy_to(self, out: BinaryIO, dtype: torch.dtype) -> None:
        """Write it to `out`: the bytes as they are stored, which takes no memory; or, in another dtype, piece by piece."""
        if dtype != self.dtype:
            with safe_open(self.file, "pt") as weights:
                rows = weights.get_slice(self.key)
                step = max(_PIECE // max(math.prod(self.shape[1:]) * dtype.itemsize, 1), 1)
                for start in range(0, self.shape[0], step):
                    write(rows[start : start + step].to(dtype), out)
            return
        left = math.prod(self.shape) * dtype.itemsize
        out.flush()
        with self.file.open("rb", buffering=0) as source:
            source.seek(self.start)
            while left:
                copied = _copy(source, out, left)
                if not copied:
                    raise ValueError(f"{self.file}: it ended while it was read.")
                left -= copied


Weights = dict[str, Stored]


def read_weights(folder: Path, rename: bool = True) -> Weights:
    """The weights of a checkpoint.

    Args:
        rename: give those of a Qwen2.5-VL their names of today, whatever names its files hold. A PolyV's are used as
            they are.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file is damaged or cut short.
    """
    index = folder / "model.safetensors.index.json"
    names = ["model.safetensors"]
    if index.exists() and not (folder / names[0]).is_file():  # in this order, as `from_pretrained`
        try:
            names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
            if any(Path(name).name != name or len(os.fsencode(name)) > _LONGEST_NAME for name in names):
                raise ValueError("a path, or a name that no file can have")
        except Exception as error:
            raise ValueError(f"{index}: damaged, it names no files of weights ({error!r}).") from error
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise FileNotFoundError(f"{folder}: incomplete, {', '.join(missing)} is missing. Download it again.")
    renamings = get_checkpoint_conversion_mapping(Qwen2_5_VLForConditionalGeneration.__name__) or [] if rename else []
    weights = {}
    for name in names:
        try:
            safe_open(folder / name, "pt").__exit__(None, None, None)  # it checks the whole table of contents
            with (folder / name).open("rb") as file:
                length = int.from_bytes(file.read(8), "little")
                content = json.loads(file.read(length))
            content.pop("__metadata__", None)
            for key, told in content.items():
                today, _ = rename_source_key(key, renamings, [])
                start = 8 + length + told["data_offsets"][0]
                weights[today] = Stored(folder / name, key, tuple(told["shape"]), _DTYPES[told["dtype"]], start)
        except (SafetensorError, KeyError, OSError) as error:
            raise ValueError(
                f"{folder / name}: damaged, cut short, or of a dtype that is not floating ({error})."
            ) from error
    return weights


def header(weights: dict[str, torch.Tensor]) -> bytes:
    """The head of a safetensors file that holds these weights, one after the other."""
    names = {dtype: name for name, dtype in _DTYPES.items()}
    content: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, weight in weights.items():
        start, end = end, end + weight.nbytes
        content[name] = {"dtype": names[weight.dtype], "shape": list(weight.shape), "data_offsets": [start, end]}
    text = json.dumps(content).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def write(weight: torch.Tensor, out: BinaryIO) -> None:
    out.write(weight.detach().contiguous().view(torch.uint8).numpy().data)


__all__ = ["Stored", "Weights", "header", "read_weights", "write"]
