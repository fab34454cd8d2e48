# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""`polyv train`, `polyv merge`, `polyv teachers`: their commands, for `polyv.cli`."""

import argparse
import importlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any


_MODEL = """\
  --model_name_or_path M      start from this PolyV or Qwen2.5-VL checkpoint
  --upcycle                   make a PolyV of a Qwen2.5-VL checkpoint; without it, it stays dense
  --trainable WORD            full, projection, ffn, experts or lora (an adapter, which `polyv export` makes whole)
  --freeze_vision             of full: keep the vision encoder as it is; its projection still trains
  --lora_r R, --lora_alpha A  rank and scale of what lora adds (default: 16, 32)
  --config_name DIR           start from scratch with the config and processor of this folder, in place of a checkpoint
  --compile_layers            compile the language model's layers: on CPUs it pays
  --dry_run                   print what the training takes, and end"""
_DATA = """\
  --dataset FILE ...          what to train on
  --dataset_weights W ...     how often to draw from each
  --image_max_pixels N, --video_max_pixels N, --video_max_frames N, --video_fps F,
  --scene_max_pixels N, --scene_max_views N
                              how large the model sees its media (default: as its processor has it)
  --output_dir DIR            where the model and its checkpoints go"""
_TEACHERS = """\
  --temporal_targets CACHE    features of a temporal teacher, by `polyv teachers cache`
  --spatial_targets CACHE     features of a spatial one
  --target_components K       foresee the K first principal components, not every dimension
  --coarse_weight W           of L_coarse in the loss"""
_ANY = """\
  --FIELD VALUE               every field of TRL's SFTConfig, as --learning_rate 1e-4 --max_steps 100"""
_RESUME = """\
With `resume_from_checkpoint: auto` in the recipe, the same command goes on where it was interrupted. Recipes that say
`use_cpu: true` are trained on a GPU with `--use_cpu false`."""

# Of each stage: its summary, what it does, its fields, examples.
_STAGES = {
    "pretrain": (
        "train on conversations about images, videos and scenes",
        """\
Train on JSONL files of conversations about images, videos and scenes (the format of `polyv world make` and of your
own data; see the README).""",
        f"{_MODEL}\n{_DATA}",
        """\
  polyv train pretrain --config recipes/polyv-nano/pretrain.yaml
  polyv train pretrain --model_name_or_path checkpoints/polyv-nano --dataset mine.jsonl --output_dir runs/mine
  polyv train pretrain --config recipes/polyv-nano/tune.yaml --model_name_or_path checkpoints/polyv-nano \\
      --dataset mine.jsonl --dataset_weights 1 --output_dir runs/mine""",
    ),
    "caption": (
        "stage 1a: the projection and the new encodings, on captions",
        "Train what connects vision and language on captions; all else is frozen.",
        f"{_MODEL}\n{_DATA}",
        "  polyv train caption --config recipes/polyv-nano/caption.yaml",
    ),
    "instruct": (
        "stage 1b: the feed-forward networks, on one modality",
        """\
Train all feed-forward networks on the rows of a dataset that show one modality. Three such runs, from one start, give
`polyv merge` its experts.""",
        f"  --modality M                image, video or scene\n{_MODEL}\n{_DATA}",
        """\
  polyv train instruct --config recipes/polyv-nano/instruct.yaml --modality image --output_dir runs/polyv-nano-image""",
    ),
    "distill": (
        "stage 2a: <synergy> learns to foresee teachers' features",
        """\
Coarse distillation: rows name one content in several modalities, the student sees one of them, drawn at random, and
its `<synergy>` is to foresee what teachers make of the content's video and 3D scene. Their features are computed
before, once, by `polyv teachers cache`.""",
        f"{_TEACHERS}\n  --student_sees M ...        modalities that are drawn from (default: all)\n{_MODEL}\n{_DATA}",
        "  polyv train distill --config recipes/polyv-nano/distill.yaml",
    ),
    "align": (
        "stage 2b: questions across modalities (CSQA)",
        """\
Fine alignment: answers to questions across modalities. With teachers' features, L_coarse is added on rows that have a
video or a scene, each of which has to be in the cache.""",
        f"{_TEACHERS}\n{_MODEL}\n{_DATA}",
        "  polyv train align --config recipes/polyv-nano/align.yaml",
    ),
}


def _train(args: argparse.Namespace, rest: list[str]) -> None:
    stage = importlib.import_module(f"polyv.recipes.{args.stage}")
    stage.main([*(["--config", args.config] if args.config else []), *rest])


def _merge(args: argparse.Namespace, rest: list[str]) -> None:
    from polyv.hub.upcycle import MODALITIES, check_not_there, placement, upcycle_to_disk

    merge = {name: folder for name in MODALITIES if (folder := getattr(args, name))}
    options = {**placement(args.placement, args.base), "num_experts_per_tok": args.top_k}
    given = {name: value for name, value in options.items() if value is not None}
    if args.warm_routers is None:
        print(upcycle_to_disk(args.base, args.out, merge, args.seed, **given))
        return
    from polyv.recipes.warm_routers import warm_routers

    check_not_there(args.out)
    cold = args.out.with_name(f".{args.out.name}.cold")
    shutil.rmtree(cold, ignore_errors=True)  # of a run that was killed
    upcycle_to_disk(args.base, cold, merge, args.seed, **given)
    try:
        print(warm_routers(cold, args.out, [*merge, "general"], args.warm_routers, seed=args.seed))
    finally:
        shutil.rmtree(cold)


LESS_STILL = "of videos: less what the first frame held still would give: what a clip tells beyond it"


def _cache(args: argparse.Namespace, rest: list[str]) -> None:
    from polyv.recipes.synergy import Contents
    from polyv.recipes.targets import build_cache
    from polyv.recipes.teachers import load_teacher

    given = {name: getattr(args, name) for name in ("frames", "views", "less_still")}
    settings = {name: value for name, value in given.items() if value is not None and value is not False}
    teacher = load_teacher(args.teacher, args.device, **settings)
    print(build_cache(teacher, Contents(args.dataset, teacher.modality), args.out, args.regions))


def _probe(args: argparse.Namespace, rest: list[str]) -> None:
    from polyv.recipes.probe import run

    settings = {name: getattr(args, name) for name in ("less_still", "modality", "first") if getattr(args, name)}
    run(args.teacher, args.train, args.test, args.out, args.seed, settings=settings)


def _plan(args: argparse.Namespace, rest: list[str]) -> None:
    from polyv.recipes.plan import Load, run

    load = Load(args.batch_size, args.tokens, args.patches, gradient_checkpointing=not args.no_checkpointing)
    run(
        args.model, args.gpus, args.strategy, args.trainable, args.upcycle, args.freeze_vision, args.dtype, load,
        args.json, args.lora_r,
    )  # fmt: skip


def _check(args: argparse.Namespace, rest: list[str]) -> None:
    from polyv.recipes.check import run
    from polyv.recipes.collator import MediaArguments

    media = MediaArguments(**{name: getattr(args, name) for name in MediaArguments.__dataclass_fields__})
    run(args.dataset, args.model, args.out, args.limit, args.workers, args.max_length, media)


def _add(parser: argparse.ArgumentParser, option: str, **settings: Any) -> None:
    """An option that recipes have, too, whose spelling (`--lora_r`) it takes as well."""
    parser.add_argument(option, **settings)
    parser.add_argument(option[:2] + option[2:].replace("-", "_"), **{**settings, "help": argparse.SUPPRESS})


def add_train(commands, command: Callable) -> None:
    """Add `polyv train` to the commands; `command` makes a parser, as `polyv.cli` does."""
    train = command(
        commands,
        "train",
        None,
        "train a model",
        "Train a model: one stage a command, each by a recipe (a YAML file) or by fields on the command line.",
    ).add_subparsers(title="stages", prog="polyv train", metavar="STAGE", required=True)
    for name, (summary, text, fields, examples) in _STAGES.items():
        text = f"{text}\nA recipe is a YAML file of fields; a field on the command line overrides it. The fields:\n\n"
        parser = command(
            train, name, _train, summary, f"{text}{fields}\n{_ANY}\n\n{_RESUME}", examples, loads_models=True
        )
        parser.add_argument("--config", metavar="YAML", help="the recipe")
        parser.usage = f"polyv train {name} [--config YAML] [--FIELD VALUE ...]"
        parser.set_defaults(takes_rest=True, stage=name)


def add_data(commands, command: Callable) -> None:
    """Add `polyv data`."""
    data = command(
        commands,
        "data",
        None,
        "look at what is to be trained on",
        "Training data: JSONL files of conversations, or datasets of the Hub.",
    ).add_subparsers(title="commands", prog="polyv data", metavar="COMMAND", required=True)
    check = command(
        data,
        "check",
        _check,
        "read every row as training would, and name each that it would stop at",
        """Read every row and decode every medium as a training of MODEL would; name each row that cannot be trained on, with its
number and the cause; count tokens by modality, and draw how long the rows are. The exit code is 2 if a row is unfit.""",
        """  polyv data check mine.jsonl
  polyv data check data/train/suites.jsonl --limit 2000 --out check.json""",
        loads_models=True,
    )
    check.add_argument("dataset", metavar="FILE", nargs="+", help="JSONL files, or names on the Hub")
    text = "whose processor reads them: a checkpoint (default: %(default)s)"
    check.add_argument("--model", metavar="M", default="checkpoints/polyv-nano", help=text)
    check.add_argument("--limit", metavar="N", type=int, help="rows of each, from the first (default: all)")
    text = "remark on rows of more tokens (default: the model's max_position_embeddings)"
    check.add_argument("--max-length", metavar="T", type=int, help=text)
    for kind, bounds in (
        ("image", "pixels"),
        ("video", "pixels"),
        ("video", "frames"),
        ("scene", "pixels"),
        ("scene", "views"),
    ):
        text = f"of a{'n' * (kind == 'image')} {kind}, as in the recipe (default: as the model's processor has it)"
        _add(check, f"--{kind}-max-{bounds}", metavar="N", type=int, help=text)
    _add(check, "--video-fps", metavar="F", type=float, help="frames of a second of video, as in the recipe")
    check.add_argument("--workers", metavar="W", type=int, help="processes (default: one a core)")
    text = "report to write, with a picture beside it (default: %(default)s)"
    check.add_argument("--out", metavar="FILE.json", type=Path, default=Path("data-check.json"), help=text)


def add_plan(commands, command: Callable) -> None:
    """Add `polyv plan`."""
    plan = command(
        commands,
        "plan",
        _plan,
        "what a training takes: parameters, memory on each GPU, operations",
        """Say what training a checkpoint takes, from its config alone: parameters (total, active for a token, trainable), memory
on each GPU by part, FLOPs a token, and which cards hold it. Weights are never loaded: the model makes one step on
tensors that have shapes and no numbers, and what is held is counted. Not counted: CUDA's context, NCCL's
buffers, kernels' workspace, fragmentation.""",
        """  polyv plan --model checkpoints/polyv-nano
  polyv plan --model Qwen/Qwen2.5-VL-7B-Instruct --upcycle --gpus 8 --strategy fsdp""",
        loads_models=True,
    )
    plan.add_argument("--model", metavar="M", required=True, help="a folder, or a name on the Hub")
    plan.add_argument("--gpus", metavar="N", type=int, default=1, help="default: %(default)s")
    strategies = ("single", "ddp", "fsdp", "zero2", "zero3")
    plan.add_argument("--strategy", choices=strategies, default="single", help="default: %(default)s")
    words = ("full", "projection", "ffn", "experts", "lora")
    plan.add_argument("--trainable", choices=words, default="full", help="what trains (default: %(default)s)")
    _add(plan, "--lora-r", metavar="R", type=int, default=16, help="rank of LoRA (default: %(default)s)")
    plan.add_argument("--upcycle", action="store_true", help="of a Qwen2.5-VL: plan the PolyV that it would become")
    text = "of full: the vision encoder stays; its projection trains"
    _add(plan, "--freeze-vision", action="store_true", help=text)
    text = "of the weights (default: %(default)s, trained under bfloat16 autocast)"
    plan.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help=text)
    plan.add_argument("--batch-size", metavar="B", type=int, default=1, help="rows a GPU (default: %(default)s)")
    plan.add_argument("--tokens", metavar="T", type=int, default=2048, help="of a row (default: %(default)s)")
    text = "patches of a row's pictures, of which four make one of its tokens (default: %(default)s)"
    plan.add_argument("--patches", metavar="P", type=int, default=4096, help=text)
    plan.add_argument("--no-checkpointing", action="store_true", help="without gradient checkpointing")
    plan.add_argument("--json", action="store_true", help="print one JSON object, memory in bytes")


def add_merge(commands, command: Callable) -> None:
    """Add `polyv merge`."""
    merge = command(
        commands,
        "merge",
        _merge,
        "make experts of checkpoints trained on one modality each",
        """\
Merge: the feed-forward networks of checkpoints trained from BASE on images, scenes and videos become the experts of
each MoE layer, in this order, and BASE's own is the last, general one. All else comes from BASE. A modality left out
gives no expert.""",
        """\
  polyv merge runs/polyv-nano-caption runs/polyv-nano-merged --image runs/polyv-nano-image \\
      --scene runs/polyv-nano-scene --video runs/polyv-nano-video""",
        loads_models=True,
    )
    merge.add_argument("base", metavar="BASE", help="the checkpoint that the others were trained from: dense")
    merge.add_argument("out", metavar="OUT", type=Path, help="folder to write; it must not exist")
    for name in ("image", "scene", "video"):
        merge.add_argument(f"--{name}", metavar="M", help=f"checkpoint trained on {name}s")
    merge.add_argument("--top-k", metavar="K", type=int, help="experts that a token goes to (default: 2)")
    text = "which layers hold experts: every one, or every one of the first half (default: every 4th)"
    merge.add_argument("--placement", choices=("every-layer", "front-half"), help=text)
    text = "rows on which to set the routers, so that tokens go to their modality's expert (default: they are random)"
    merge.add_argument("--warm-routers", metavar="JSONL", help=text)
    merge.add_argument("--seed", type=int, default=0, help="seed of routers and synergy heads (default: %(default)s)")


def add_teachers(commands, command: Callable) -> None:
    """Add `polyv teachers`."""
    teachers = command(
        commands,
        "teachers",
        None,
        "features of frozen teachers, for `<synergy>` to foresee",
        "Teachers: frozen models of one modality, whose features stage 2a distils.",
    ).add_subparsers(title="commands", prog="polyv teachers", metavar="COMMAND", required=True)
    cache = command(
        teachers,
        "cache",
        _cache,
        "compute the features of a dataset's media, once",
        """\
Compute a teacher's features of all videos or scenes that a dataset's rows name (their "content", or what their
messages show), pooled over regions, and write them to CACHE, by what the media hold. May be interrupted, and run again
on more data: only what is missing is computed.

TEACHER is V-JEPA 2 (facebook/vjepa2-vitl-fpc64-256 and the like), which sees videos; VGGT (facebook/VGGT-1B), which
sees scenes and needs its authors' package; a small teacher trained here (polyv.recipes.teacher_temporal,
polyv.recipes.teacher_spatial); or the truth of the simulated world, an upper bound (world:temporal, world:spatial).""",
        """\
  polyv teachers cache --teacher facebook/vjepa2-vitl-fpc64-256 --dataset mine.jsonl --out targets-temporal
  polyv teachers cache --teacher runs/teacher-spatial --dataset data/train/contents.jsonl --out runs/targets-spatial""",
        loads_models=True,
    )
    cache.add_argument("--teacher", metavar="TEACHER", required=True, help="a folder, or a name on the Hub")
    cache.add_argument("--dataset", metavar="FILE", nargs="+", required=True, help="JSONL files, or names on the Hub")
    cache.add_argument("--out", metavar="CACHE", type=Path, required=True, help="folder to write or to go on with")
    text = "pool over so many regions along time (or views), height and width (default: 1 1 1, the mean of all)"
    cache.add_argument("--regions", metavar="N", type=int, nargs=3, default=[1, 1, 1], help=text)
    cache.add_argument("--frames", metavar="N", type=int, help="frames of a video that it looks at (default: its own)")
    cache.add_argument(
        "--views", metavar="N", type=int, help="views of a scene that it looks at, at most (default: 8)"
    )
    cache.add_argument("--less-still", action="store_true", help=LESS_STILL)
    cache.add_argument("--device", default="cpu", help="where it runs (default: %(default)s)")
    probe = command(
        teachers,
        "probe",
        _probe,
        "what a teacher, or a student's <synergy>, knows of motion and depth, by linear probes",
        """\
Fit linear probes on a teacher's features of a world's scenes, and measure them on another world's: how well do they
tell what moves, falls and hits, and how far away things are? Beside it the same for the mean colours of the pixels,
and for a network of the same shape that was never trained. Of a PolyV, the hidden state that <synergy>'s heads read is
probed: what did it learn from its teachers?""",
        """\
  polyv teachers probe --teacher runs/teacher-temporal --train data/train --test data/validation
  polyv teachers probe --teacher runs/polyv-nano-distilled --modality video --train data/train --test data/validation""",
        loads_models=True,
    )
    probe.add_argument("--teacher", metavar="TEACHER", required=True, help="a folder, or a name on the Hub")
    probe.add_argument("--train", metavar="WORLD", type=Path, required=True, help="world to fit the probes on")
    probe.add_argument("--test", metavar="WORLD", type=Path, required=True, help="world to measure them on")
    probe.add_argument("--out", metavar="FILE", type=Path, default=Path("probe.json"), help="default: %(default)s")
    probe.add_argument("--less-still", action="store_true", help=LESS_STILL)
    probe.add_argument("--modality", choices=("video", "scene"), help="of a PolyV: what it is asked about")
    probe.add_argument("--first", action="store_true", help="of a PolyV: show it the first frame or view alone")
    probe.add_argument("--seed", type=int, default=0, help="of the untrained network (default: %(default)s)")
