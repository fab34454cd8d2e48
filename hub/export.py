# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""`polyv export`: give a checkpoint its code, so that transformers loads it where this package is not installed.

The Hub's remote code must be flat files that import each other as `from .name import ...`; the package's own files
import `polyv.folder.name`. So each file is copied with those imports rewritten, and `auto_map` entries say which
class stands where. An adapter is merged into its base first.
"""

import json
import os
import re
import shutil
import tempfile
from importlib.resources import files
from pathlib import Path

from huggingface_hub import snapshot_download

from polyv.hub.adapters import FILES, is_adapter, load_merged, read_base
from polyv.hub.cards import retold_card
from polyv.hub.checkpoints import check_name


CODE_FOLDERS = ("configuration", "processing", "modeling_polyv")
"""Folders of the package whose files a model and its processor need, and nothing else of the package."""

MODEL_AUTO_MAP = {
    "AutoConfig": "configuration_polyv.PolyVConfig",
    "AutoModel": "modeling_polyv.PolyVModel",
    "AutoModelForImageTextToText": "modeling_polyv.PolyVForConditionalGeneration",
    "AutoModelForMultimodalLM": "modeling_polyv.PolyVForConditionalGeneration",
    "AutoProcessor": "processing_polyv.PolyVProcessor",
}
PROCESSOR_AUTO_MAP = {"AutoProcessor": "processing_polyv.PolyVProcessor"}

LEFTOVERS = (
    *("checkpoint-*", "runs", "global_step*", "optimizer*", "scheduler.pt", "scaler.pt", "rng_state*.pth"),
    *("training_args.bin", "trainer_state.json", "__pycache__", ".*"),
)
"""What a training, or a system, leaves in a checkpoint's folder: megabytes that no one loads, and paths of a machine."""

_DTYPES = ("float32", "bfloat16", "float16")

_IMPORT = re.compile(rf"^(\s*)from polyv\.(?:{'|'.join(CODE_FOLDERS)})\.(\w+) import ", re.MULTILINE)
_ANY_IMPORT = re.compile(r"^\s*(?:from polyv\b|import polyv\b).*$", re.MULTILINE)


def export(model: str | os.PathLike, out: str | os.PathLike, dtype: str | None = None) -> Path:
    """Copy the PolyV checkpoint `model` to `out` with its code and the `auto_map` entries that lead to it.

    `out` appears whole or not at all. Where it exists it is replaced, but only if it is a checkpoint itself; it may
    be `model`, whose code is then brought up to date. What a training leaves there (`LEFTOVERS`) is not copied, but
    stays where `out` is `model`.

    Of an adapter, as `trainable: lora` writes it, `out` gets the base with the adapter merged into it, in float32, and the
    adapter's processor. A dense Qwen2.5-VL needs no code and gets none.

    Args:
        model: folder of a checkpoint, or of an adapter, or its name on the Hub.
        out: folder to write.
        dtype: "float32", "bfloat16" or "float16" for the weights; None leaves them as they are, and those of
            an adapter and its base in float32.

    Returns:
        `out`.

    Raises:
        FileNotFoundError: there is no folder `model`, or an adapter's base is not there.
        ImportError: `model` is an adapter, and PEFT is not installed.
        ValueError: `model` is no PolyV checkpoint or has no processor, or is an adapter of something else; `out` is a
            folder of something else, a git clone, an adapter or its base, or within `model` or around it; or `dtype` is
            another.
    """
    check_name("model", model)
    if dtype is not None and dtype not in _DTYPES:
        raise ValueError(f"dtype={dtype}: expected one of {', '.join(_DTYPES)}.")
    source = Path(model) if Path(model).is_dir() else Path(snapshot_download(str(model)))
    out = Path(out)
    in_place = out.exists() and out.samefile(source)
    _check(source, out, in_place)
    merged = load_merged(source, dtype or "float32") if is_adapter(source) else None
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    replaced = partial.with_name(partial.name + "-replaced")
    try:
        partial.chmod(0o755)
        # The Hub's cache holds links to blobs: copytree follows them.
        left_out = shutil.ignore_patterns(*(() if in_place else LEFTOVERS), *(FILES if merged else ()))
        shutil.copytree(source, partial, dirs_exist_ok=True, ignore=left_out)
        if merged is not None:
            merged.save_pretrained(partial)
            remark = "It was trained as an adapter, which `polyv export` merged into its base: the weights are whole."
            if card := retold_card(source, out.name, remark):
                (partial / "README.md").write_text(card, encoding="utf-8")
        elif dtype is not None:
            _cast(partial, dtype)
        if merged is None or merged.config.model_type == "polyv":
            for name, text in flat_code().items():
                (partial / name).write_text(text, encoding="utf-8")
            _add_auto_map(partial / "config.json", MODEL_AUTO_MAP)
            _add_auto_map(partial / "processor_config.json", PROCESSOR_AUTO_MAP)
        if out.exists():
            out.rename(replaced)
        partial.rename(out)
    except BaseException:
        if replaced.exists() and not out.exists():
            replaced.rename(out)
        raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    shutil.rmtree(replaced, ignore_errors=True)
    return out


def flat_code() -> dict[str, str]:
    """The package's model and processor code as flat files, by file name.

    Raises:
        ValueError: two files share a name, or one imports a part of `polyv` that is not exported.
    """
    code: dict[str, str] = {}
    for folder in CODE_FOLDERS:
        for file in sorted(files("polyv").joinpath(folder).iterdir(), key=lambda entry: entry.name):
            if not file.name.endswith(".py") or file.name == "__init__.py":
                continue
            if file.name in code:
                raise ValueError(f"polyv/{folder}/{file.name}: another exported folder holds a file of that name.")
            code[file.name] = flatten(file.read_text(encoding="utf-8"), f"polyv/{folder}/{file.name}")
    return code


def flatten(text: str, name: str) -> str:
    """Rewrite `from polyv.folder.module import X` to `from .module import X`.

    Raises:
        ValueError: an import of `polyv` is left, in another form or from a folder that is not exported.
    """
    text = _IMPORT.sub(r"\1from .\2 import ", text)
    left = _ANY_IMPORT.search(text)
    if left:
        raise ValueError(
            f"{name}: {left.group().strip()!r} cannot be exported. Expected `from polyv.FOLDER.MODULE import NAME` "
            f"with FOLDER one of {', '.join(CODE_FOLDERS)}."
        )
    return text


def _cast(folder: Path, dtype: str) -> None:
    """Save the weights in `folder` anew, with their config, in `dtype`."""
    from polyv.modeling_polyv.modeling_polyv import PolyVForConditionalGeneration  # late: an export needs no torch

    model = PolyVForConditionalGeneration.from_pretrained(folder, dtype=dtype)
    for weights in (*folder.glob("*.safetensors"), *folder.glob("*.safetensors.index.json")):
        weights.unlink()
    model.save_pretrained(folder)


def _check(source: Path, out: Path, in_place: bool) -> None:
    config = source / "config.json"
    model_type = json.loads(config.read_text()).get("model_type") if config.exists() else None
    if is_adapter(source):
        base = Path(read_base(source))
        # What `out` holds is replaced: with the base in it, the adapter would be of nothing.
        if in_place or (base.is_dir() and base.resolve().is_relative_to(out.resolve())):
            raise ValueError(
                f"out={out}: it is, or holds, what would be merged: the adapter, or its base {base}. Give another folder."
            )
    elif model_type != "polyv":
        found = f"model_type {model_type!r}" if config.exists() else "no config.json"
        raise ValueError(
            f"model={source}: {found}, expected a PolyV checkpoint (model_type 'polyv'). A Qwen2.5-VL checkpoint becomes "
            "one by: polyv upcycle SRC DST."
        )
    if not (source / "processor_config.json").exists():
        raise ValueError(
            f"model={source}: no processor_config.json. Save its processor there: "
            f"PolyVProcessor.from_pretrained(...).save_pretrained({str(source)!r})."
        )
    if out.exists() and not (out / "config.json").exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"out={out}: it exists and is no checkpoint, so it is not replaced. Give another folder.")
    if in_place:
        return
    inner, outer = out.resolve(), source.resolve()
    if inner.is_relative_to(outer) or outer.is_relative_to(inner):
        raise ValueError(
            f"out={out}: one of it and model={source} lies in the other. Give a folder apart, or the same."
        )
    if (out / ".git").exists():
        raise ValueError(
            f"out={out}: it is a git clone, whose history replacing it would delete. Export to another folder, and copy "
            "from there."
        )


def _add_auto_map(path: Path, auto_map: dict[str, str]) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    content["auto_map"] = auto_map
    path.write_text(json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
