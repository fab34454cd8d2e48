# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""`polyv upcycle`, `polyv merge`: one dense checkpoint, or several, become a PolyV checkpoint on disk, shard by shard.

Dense is a Qwen2.5-VL, or a PolyV without experts (`num_experts=0`), as stages 1a and 1b train it: its encodings and its
synergy heads are taken over.

`PolyVForConditionalGeneration.from_pretrained` does the same in memory, for one checkpoint. Here the bytes of each weight
are copied from file to file, those of an FFN once for each expert; nothing of them stays in memory. The result is made
in a hidden folder beside its place, `.NAME.partial`, whose shards appear whole or not at all; it moves to its place when
it is complete.
"""

import fcntl
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import torch
from huggingface_hub import snapshot_download, split_torch_state_dict_into_shards
from tqdm import tqdm
from transformers import AutoConfig, GenerationConfig, Qwen2_5_VLConfig

from polyv.configuration.configuration_polyv import PolyVConfig
from polyv.hub.adapters import check_whole
from polyv.hub.cards import write_upcycled_card
from polyv.hub.weight_files import Stored, Weights, header, read_weights, write
from polyv.modeling_polyv.modeling_polyv import PolyVForConditionalGeneration
from polyv.modeling_polyv.upcycling import (
    FUSED,
    NEW_WEIGHTS,
    plan_config,
    read_dense_config,
    refuse_other_shapes,
)
from polyv.processing.processing_polyv import PolyVProcessor


MODALITIES = ("image", "scene", "video")
"""Whose checkpoints may become experts of their own, in the order of the experts; the base's own comes last."""

_REQUEST = "request.json"
# Of a repository on the Hub.
_FILES = ["*.safetensors", "*.json", "*.jinja", "*.txt"]

ExpertPlan = dict[int, list[str]]
"""Of each layer of experts, by its index: the name of the checkpoint that each of its experts comes from."""


def upcycle_to_disk(
    source: str | os.PathLike,
    out: str | os.PathLike,
    merge: Mapping[str, str | os.PathLike] | None = None,
    seed: int = 0,
    max_shard_size: int | str = "2GB",
    progress: bool = True,
    plan: ExpertPlan | None = None,
    **overrides: Any,
) -> Path:
    """Write the PolyV that a dense checkpoint becomes.

    Killed, the same call goes on with the shards that are still missing.

    Args:
        source: folder of the dense checkpoint, or its name on the Hub. All that is not an expert comes from it.
        out: folder to write; it must not exist.
        merge: checkpoints trained from `source` whose FFNs become experts, by modality: "image", "scene", "video".
            The experts are these, in that order, and then the source's own; without `merge`, all are the source's.
        seed: of the new weights: routers and synergy heads.
        max_shard_size: of the result's files.
        progress: show a progress bar.
        plan: other experts, layer by layer: {3: ["image", "image", "general"], 7: …}, "general" for the source's own.
        overrides: arguments of `PolyVConfig` or `PolyVTextConfig`, such as `decoder_sparse_step=1`.

    Returns:
        `out`.

    Raises:
        FileExistsError: `out` exists.
        FileNotFoundError: a checkpoint, or one of its files, is not there.
        ValueError: a checkpoint is no Qwen2.5-VL and no PolyV without experts, is incomplete, or does not fit the others
            or the configuration.
        OSError: the disk has no room for the result, or another process writes it.
    """
    out, merge = Path(out), dict(merge or {})
    check_not_there(out)
    names = _name_experts(merge, plan, overrides)
    folders = {name: _folder(name, where) for name, where in {"general": source, **merge}.items()}
    dense = {name: _dense_config(name, folder) for name, folder in folders.items()}
    if merge or plan is not None:
        overrides["num_experts"] = len(names)
    with _blaming(f"source={folders['general']}: its config.json, with the arguments given, describes no PolyV"):
        config, synergy_row = plan_config(dense["general"], folders["general"], None, overrides)
    if overrides:
        raise TypeError(f"{', '.join(overrides)}: no argument of PolyVConfig or PolyVTextConfig.")
    layers = config.text_config.moe_layers
    if plan is None:
        plan = dict.fromkeys(layers, names if merge else names * config.text_config.num_experts)
    elif sorted(plan) != layers:
        raise ValueError(f"plan: it tells of the layers {sorted(plan)}, but those with experts are {layers}.")
    for name in merge:
        refuse_other_shapes(folders[name], dense[name], config)
    num_rows = config.text_config.vocab_size
    if synergy_row is not None and synergy_row >= num_rows:
        config.text_config.vocab_size, config.synergy_token_id = synergy_row + 1, synergy_row

    sources = {
        name: read_weights(folder, rename=not isinstance(dense[name], PolyVConfig)) for name, folder in folders.items()
    }
    # In this order, as `from_pretrained`.
    dtype = dense["general"].dtype or next(iter(sources["general"].values())).dtype
    for part in (config, config.text_config, config.vision_config):
        part.dtype = dtype
    with _blaming(f"source={folders['general']}: its config.json describes no model that can be built"):
        model = _skeleton(config)
    made = {name: weight for name, weight in model.state_dict().items() if name not in _tied(model)}
    _check(folders, sources, made, num_rows)

    split = split_torch_state_dict_into_shards(made, max_shard_size=max_shard_size)
    partial = out.parent / f".{out.name}.partial"
    request = {
        "config": json.loads(config.to_json_string(use_diff=False)),
        "plan": plan,
        "seed": seed,
        "shards": split.filename_to_tensors,
        "sources": {name: _stamps(weights) for name, weights in sources.items()},
    }
    new = _new_weights(model, [name for name in made if _is_new(name, sources["general"])], seed)
    processor = _processor(folders["general"], config)
    lock = _begin(out, partial, request, split.metadata["total_size"])
    try:
        with tqdm(
            total=split.metadata["total_size"],
            unit="B",
            unit_scale=True,
            desc=f"upcycling to {out.name}",
            disable=not progress,
        ) as bar:
            for file, names in split.filename_to_tensors.items():
                head = header({name: made[name] for name in names})
                size = sum(made[name].nbytes for name in names)
                if (partial / file).is_file() and (partial / file).stat().st_size == len(head) + size:
                    bar.update(size)
                    continue
                with (partial / f".{file}").open("wb") as shard:
                    shard.write(head)
                    for name in names:
                        pieces = [new[name]] if name in new else _pieces(name, made[name], sources, plan)
                        _write_weight(shard, pieces, made[name].dtype)
                        bar.update(made[name].nbytes)
                    shard.flush()
                    os.fsync(shard.fileno())  # else a machine that goes down may keep the name without the bytes
                (partial / f".{file}").rename(partial / file)
        _finish(partial, model, folders["general"], split, processor)
        write_upcycled_card(partial, out.name, os.fspath(source), merge, config)
        partial.rename(out)
        (out / _REQUEST).unlink()
    finally:
        os.close(lock)
    return out


def check_not_there(out: Path) -> None:
    """Refuse to write over what is there."""
    if os.path.lexists(out):
        raise FileExistsError(f"out={out}: it exists already. Give another folder, or remove it.")


def placement(name: str | None, source: str | os.PathLike) -> dict[str, Any]:
    """The paper's placements other than every 4th layer, as arguments of `PolyVTextConfig`; nothing for None."""
    if name is None:
        return {}
    check_whole("source", source)
    layers = AutoConfig.from_pretrained(source).text_config.num_hidden_layers
    dense = list(range(layers // 2, layers)) if name == "front-half" else None
    return {"decoder_sparse_step": 1, "mlp_only_layers": dense}


def merge_from(given: Sequence[str]) -> dict[str, str]:
    """["image=A", "video=B"] as a dictionary.

    Raises:
        ValueError: an entry has no "=", or a modality stands twice.
    """
    pairs = [entry.partition("=") for entry in given]
    names = [name for name, _, _ in pairs]
    for entry, (name, equals, where) in zip(given, pairs, strict=True):
        if not (equals and where) or names.count(name) > 1:
            raise ValueError(f"--from {entry}: expected MODALITY=CHECKPOINT, each modality once.")
    return {name: where for name, _, where in pairs}


def _folder(name: str, where: str | os.PathLike) -> Path:
    check_whole("source" if name == "general" else name, where)
    return Path(where) if Path(where).is_dir() else Path(snapshot_download(str(where), allow_patterns=_FILES))


@contextmanager
def _blaming(what: str) -> Iterator[None]:
    """Whatever transformers raises over a damaged configuration, as a ValueError that says whose it is."""
    try:
        yield
    except Exception as error:
        raise ValueError(f"{what} ({error}).") from error


def _dense_config(name: str, folder: Path) -> Qwen2_5_VLConfig:
    folder_of = f"{'source' if name == 'general' else name}={folder}"
    with _blaming(f"{folder_of}: its config.json cannot be used"):
        config = read_dense_config(folder, None, {}) or AutoConfig.from_pretrained(folder)
    if isinstance(config, PolyVConfig) and config.text_config.num_experts:
        raise ValueError(
            f"{folder_of}: it has {config.text_config.num_experts} experts already; give a dense checkpoint."
        )
    if not isinstance(config, Qwen2_5_VLConfig):
        raise ValueError(
            f"{folder_of}: its config.json is not of a Qwen2.5-VL (model_type qwen2_5_vl), nor of a PolyV without experts."
        )
    return config


def _is_new(name: str, source: Weights) -> bool:
    """Whether a weight of the result is one that its source, which has no experts, does not hold."""
    return bool(NEW_WEIGHTS.search(name)) and name not in source


def _name_experts(merge: Mapping[str, Any], plan: ExpertPlan | None, overrides: Mapping[str, Any]) -> list[str]:
    """The checkpoints that the experts of a layer come from; of the first one where a plan tells them apart."""
    unknown = sorted(set(merge) - set(MODALITIES))
    if unknown:
        raise ValueError(f"merge: got {', '.join(unknown)}, expected some of {', '.join(MODALITIES)}.")
    names = [*(name for name in MODALITIES if name in merge), "general"]
    if plan is not None:
        entries = plan.items() if isinstance(plan, dict) else ()
        if not entries or not all(isinstance(layer, int) and isinstance(experts, list) for layer, experts in entries):
            raise TypeError(
                f"plan: got {plan!r:.80}, expected {{layer: [checkpoint, ...], ...}} with whole numbers as layers."
            )
        given, names = names, next(iter(plan.values()))
        for layer, experts in plan.items():
            if any(name not in given for name in experts) or len(experts) != len(names) or len(names) < 2:
                count = max(len(names), 2)
                raise ValueError(f"plan[{layer}]: got {experts}, expected {count} of {', '.join(given)}.")
        if unused := set(merge) - {name for experts in plan.values() for name in experts}:
            raise ValueError(f"plan: no expert comes from {', '.join(sorted(unused))}, which `merge` gives.")
    if (merge or plan is not None) and overrides.get("num_experts", len(names)) != len(names):
        raise ValueError(
            f"num_experts={overrides['num_experts']}: the checkpoints given make {len(names)} experts ({', '.join(names)})."
        )
    return names


def _skeleton(config: PolyVConfig) -> PolyVForConditionalGeneration:
    """The model without its weights: names, shapes and dtype."""
    with torch.device("meta"):
        model = PolyVForConditionalGeneration(config)
    return model.to(config.dtype)


def _tied(model: PolyVForConditionalGeneration) -> set[str]:
    return {"lm_head.weight"} if model.config.tie_word_embeddings else set()


def _dense_names(name: str) -> list[str]:
    """The dense weights that a weight of PolyV is made of."""
    layer, is_fused, matrix = name.partition(".experts.")
    return [f"{layer}.{part}.weight" for part in FUSED[matrix]] if is_fused else [name]


def _check(
    folders: dict[str, Path],
    sources: dict[str, Weights],
    made: dict[str, torch.Tensor],
    num_rows: int,
) -> None:
    """Refuse checkpoints that cannot fill the result, naming each weight that is missing, superfluous or of another shape."""
    for name, weights in sources.items():
        used: set[str] = set()
        faults = []
        for target, empty in made.items():
            if _is_new(target, weights) or (name != "general" and ".experts." not in target):
                continue
            parts = _dense_names(target)
            used.update(parts)
            missing = [part for part in parts if part not in weights]
            faults += [f"{part} is missing" for part in missing]
            if not missing:
                wanted, found = _shapes(target, empty, weights, parts, num_rows)
                faults += [f"{target} needs {wanted}, its parts make {found}"] if wanted != found else []
        if name == "general":
            tied = {"lm_head.weight"} if "lm_head.weight" not in made else set()
            faults += [f"{key} has no place" for key in sorted(set(weights) - used - tied)]
        if faults:
            raise ValueError(f"{folders[name]} does not fit: {'; '.join(faults)}.")


def _shapes(
    target: str, empty: torch.Tensor, weights: Weights, parts: list[str], num_rows: int
) -> tuple[list[int], list[int]]:
    wanted, found = list(empty.shape), list(weights[parts[0]].shape)
    if ".experts." in target:
        wanted = wanted[1:]
        found = [sum(weights[part].shape[0] for part in parts), *found[1:]]
    elif _is_vocabulary(target):
        wanted[0] = num_rows
    return wanted, found


def _is_vocabulary(name: str) -> bool:
    return name.endswith(("embed_tokens.weight", "lm_head.weight"))


def _write_weight(shard: BinaryIO, pieces: Iterable[Stored | torch.Tensor], dtype: torch.dtype) -> None:
    for piece in pieces:
        if isinstance(piece, Stored):
            piece.copy_to(shard, dtype)
        else:
            write(piece, shard)


def _pieces(
    name: str, empty: torch.Tensor, sources: dict[str, Weights], plan: ExpertPlan
) -> Iterator[Stored | torch.Tensor]:
    """What one weight of the result consists of, in the order of its bytes: stored weights and new rows."""
    if ".experts." in name:
        layer = int(name.partition(".layers.")[2].partition(".")[0])
        for source in plan[layer]:
            yield from (sources[source][part] for part in _dense_names(name))
        return
    weight = sources["general"][name]
    yield weight
    if _is_vocabulary(name) and (grown := len(empty) - weight.shape[0]):
        yield weight.read().to(empty.dtype).mean(dim=0, keepdim=True).expand(grown, -1)


def _new_weights(model: PolyVForConditionalGeneration, names: list[str], seed: int) -> dict[str, torch.Tensor]:
    """Routers, encodings and heads, drawn as the in-memory route draws them after `torch.manual_seed(seed)`."""
    owners = {name.rpartition(".")[0] for name in names}
    found: dict[str, torch.Tensor] = {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for path, module in _children_first(model):
            if path in owners:
                module.to_empty(device="cpu", recurse=False)
                model._init_weights(module)
                found.update(
                    {f"{path}.{name}": weight.detach() for name, weight in module.named_parameters(recurse=False)}
                )
    return found


def _children_first(module: torch.nn.Module, path: str = "") -> Iterator[tuple[str, torch.nn.Module]]:
    for name, child in module.named_children():
        yield from _children_first(child, f"{path}.{name}" if path else name)
    yield path, module


def _stamps(weights: Weights) -> list[list]:
    """What tells whether a checkpoint's files are still those that a run began with."""
    files = sorted({stored.file for stored in weights.values()})
    return [[str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns] for file in files]


def _begin(out: Path, partial: Path, request: dict, size: int) -> int:
    """Make `partial`, or go on with what it holds if that is of the same request, once there is room for the rest.

    Returns:
        A descriptor of `partial`, which keeps other processes out of it until it is closed.
    """
    text = json.dumps(request, indent=1, sort_keys=True, default=str)
    same = (partial / _REQUEST).is_file() and (partial / _REQUEST).read_text() == text
    here = sum(file.stat().st_size for file in partial.glob("*.safetensors")) if partial.exists() else 0
    parent = next(folder for folder in partial.absolute().parents if folder.exists())
    free = shutil.disk_usage(parent).free + here  # what is there already is used, or is removed
    if free < size:
        raise OSError(
            f"{parent}: {size / 1e9:.1f} GB are needed, {free / 1e9:.1f} GB are free. Make room, or write elsewhere."
        )
    partial.mkdir(parents=True, exist_ok=True)
    lock = os.open(partial, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise BlockingIOError(
            f"out={out}: another process is writing it. Wait until it ends, or give another."
        ) from None
    for file in partial.iterdir():
        if file.is_dir():
            shutil.rmtree(file)
        elif not same or file.name.startswith("."):
            file.unlink()
    (partial / _REQUEST).write_text(text)
    return lock


def _processor(source: Path, config: PolyVConfig) -> PolyVProcessor | None:
    """The checkpoint's processor as PolyV's, if it has one.

    Raises:
        ValueError: it reads another `<synergy>` than the model is to have.
    """
    if not any((source / name).is_file() for name in ("preprocessor_config.json", "processor_config.json")):
        return None
    processor = PolyVProcessor.from_pretrained(source, num_synergy_tokens=config.num_synergy_tokens)
    if config.synergy_token_id not in (None, processor.synergy_token_id):
        raise ValueError(
            f"synergy_token_id={config.synergy_token_id}: the tokenizer of {source} reads `<synergy>` as "
            f"{processor.synergy_token_id}. Leave it out."
        )
    return processor


def _finish(
    partial: Path, model: PolyVForConditionalGeneration, source: Path, split: Any, processor: PolyVProcessor | None
) -> None:
    """What stands beside the weights: index, configuration, generation settings, processor."""
    if split.is_sharded:
        content = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        (partial / "model.safetensors.index.json").write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(partial)
    try:
        GenerationConfig.from_pretrained(source).save_pretrained(partial)
    except OSError:
        GenerationConfig.from_model_config(model.config).save_pretrained(partial)
    if processor is not None:
        processor.save_pretrained(partial)
