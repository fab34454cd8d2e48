# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""The `polyv` command. Each subcommand imports what it needs when it runs, so that every help text comes at once."""

import argparse
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import polyv
from polyv.csqa.commands import add_csqa
from polyv.recipes.commands import add_data, add_merge, add_plan, add_teachers, add_train


_DESCRIPTION = """\
PolyV answers questions about images, videos and posed RGB-D scenes with one model.

  ask        ask one question about your own files
  demo       make an unseen scene as image, video and 3D scene, ask about it, draw the answers
  world      make the simulated world that the models learn from, or look at it
  csqa       make questions whose every answer can be derived again
  data       check what is to be trained on, row by row
  train      train a model, stage by stage
  merge      make experts of checkpoints trained on one modality each
  teachers   features of frozen teachers, for <synergy> to foresee
  evaluate   measure a model on the ten question suites
  ablate     train the arms of a study, measure each, draw one table
  routing    which experts take which tokens
  plan       what a training takes: memory on each GPU, operations
  upcycle    make a PolyV checkpoint of Qwen2.5-VL checkpoints, on disk
  export     give a checkpoint its code, so that it loads without this package

`polyv COMMAND --help` says more about each; `polyv --version` prints the version."""

_Formatter = argparse.RawDescriptionHelpFormatter


def _ask(args: argparse.Namespace, rest: list[str]) -> None:
    from polyv.ask import run

    run(
        args.model,
        args.question,
        args.media,
        as_json=args.json,
        max_new_tokens=args.max_new_tokens,
    )


def _demo(args: argparse.Namespace, rest: list[str]) -> None:
    from polyv.demo import run

    run(args.model, args.seed, args.out)


def _world_make(args: argparse.Namespace, rest: list[str]) -> None:
    from polyv.world.make import make_world

    make_world(
        args.out,
        scenes=args.scenes,
        seed=args.seed,
        size=args.size,
        split=args.split,
        workers=args.workers,
        progress=True,
    )
    print(f"seed {args.seed}\n{args.out}")


def _world_show(args: argparse.Namespace, rest: list[str]) -> None:
    from polyv.world.show import contact_sheet

    print(contact_sheet(args.world, args.out, args.scenes))


def _evaluate(args: argparse.Namespace, rest: list[str]) -> None:
    from polyv.evaluation.evaluate import run

    options = {"world": args.world, "batch_size": args.batch_size, "answers": args.answers}
    run(args.model, args.suites, args.seed, args.n, args.out, **options)


def _ablate(args: argparse.Namespace, rest: list[str]) -> None:
    from polyv.evaluation.ablate import run

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # else its runs would go on without it
    results = run(args.config, args.workers, args.hours)
    print(f"{len(results['seconds'])} arms measured so far")


def _routing(args: argparse.Namespace, rest: list[str]) -> None:
    from polyv.evaluation.routing import run

    models = args.model or ["checkpoints/polyv-nano"]
    run(models, args.suites, args.seed, args.n, args.out, world=args.world, batch_size=args.batch_size)


def _upcycle(args: argparse.Namespace, rest: list[str]) -> None:
    from polyv.hub.upcycle import merge_from, placement, upcycle_to_disk

    options = {
        "num_experts": args.experts,
        "num_experts_per_tok": args.top_k,
        "synergy_layer": args.synergy_layer,
        "num_synergy_tokens": args.synergy_tokens,
        **placement(args.placement, args.source),
    }
    options |= {"decoder_sparse_step": args.every} if args.every is not None else {}
    given = {name: value for name, value in options.items() if value is not None}
    print(upcycle_to_disk(args.source, args.out, merge_from(args.merge), args.seed, **given))


def _export(args: argparse.Namespace, rest: list[str]) -> None:
    from polyv.hub.export import export

    print(export(args.model, args.out, args.dtype))


def _command(
    commands,
    name: str,
    run: Callable | None,
    summary: str,
    text: str,
    examples: str = "",
    loads_models: bool = False,
):
    epilog = f"examples:\n{examples}" if examples else None
    parser = commands.add_parser(
        name, help=summary, description=text, epilog=epilog, formatter_class=_Formatter, allow_abbrev=False
    )
    if run is not None:
        parser.set_defaults(run=run, parser=parser, loads_models=loads_models)
    return parser


def _add_ask(commands) -> None:
    parser = _command(
        commands,
        "ask",
        _ask,
        "ask one question about your own files",
        """\
Ask a model one question about any number of images, videos and scenes, and print its answer, the seconds it took
(loading the model not counted) and the device. The media stand before the question in the order in which you name
them.

An image is a file that Pillow reads. A video is a file that FFmpeg's libraries read. A scene is a folder in ScanNet's
layout (color/, depth/ in 16-bit millimetres, pose/ camera-to-world, intrinsic/), in 3RScan's (sequence.zip unpacked),
or a nerfstudio `transforms.json` with depth and undistorted pictures; see `PosedViews` in the README. A model other
than PolyV sees a scene's views as plain images; one of another family than Qwen2.5-VL gets a video as frames, 2 a
second, of which it takes its pick, or at most 32 of them as images where it knows no videos.""",
        """\
  polyv ask --image photo.jpg "What colour is the cup?"
  polyv ask --model runs/mine --video clip.mp4 --scene scan/ "Is the room in the video the scanned one?"
  polyv ask --json --video clip.mp4 "What falls first?" --max-new-tokens 16""",
        loads_models=True,
    )
    parser.set_defaults(media=[])
    parser.add_argument("question", help="the question, as one argument")
    _add_model(parser)

    # All three collect into one list: a question may say "the first" and "the second".
    def add_media(kind: str, metavar: str, text: str) -> None:
        parser.add_argument(
            f"--{kind}", metavar=metavar, help=text, dest="media", action="append", type=lambda path: (kind, path)
        )

    add_media("image", "FILE", "an image, or its URL; may be given several times")
    add_media("video", "FILE", "a video, or its URL; may be given several times")
    add_media("scene", "DIR", "a scene; may be given several times")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")
    text = "longest answer, in tokens (default: %(default)s)"
    parser.add_argument("--max-new-tokens", metavar="N", type=int, default=64, help=text)


def _add_demo(commands) -> None:
    parser = _command(
        commands,
        "demo",
        _demo,
        "make an unseen scene as image, video and 3D scene, ask about it, draw the answers",
        """\
Make a scene that no model was trained on (test split; a random seed, which is printed), write it as an image, a video
and a folder of posed RGB-D views, ask a dozen questions across the three, and print each question with the answer
and the truth. The last line is the path of a picture that shows them all.""",
        "  polyv demo\n  polyv demo --seed 7 --out demo_output",
        loads_models=True,
    )
    _add_model(parser)
    parser.add_argument("--seed", type=int, help="the scene's seed (default: a random one, printed)")
    text = "folder for the media and the picture (default: %(default)s)"
    parser.add_argument("--out", metavar="DIR", type=Path, default=Path("demo_output"), help=text)


def _add_world(commands) -> None:
    world = _command(
        commands,
        "world",
        None,
        "make the simulated world that the models learn from, or look at it",
        """\
The simulated world: procedural scenes of balls, boxes, ramps and tables with exact physics, each as an image,
a video and posed RGB-D views of the same content, with captions and the questions of ten suites.""",
    ).add_subparsers(title="commands", prog="polyv world", metavar="COMMAND", required=True)
    make = _command(
        world,
        "make",
        _world_make,
        "write scenes, captions and questions",
        """\
Write DIR/scenes/000000/{image.png, moved.png, video.mp4, scene/, record.json}, one folder a scene, and from their
records captions.jsonl, general.jsonl, suites.jsonl (training conversations) and questions.jsonl (for evaluation).
Uses all cores. May be interrupted: the same command goes on where it stopped. The same seed gives the same bytes on
the same machine and versions. Seeds of different splits never give the same scene.""",
        """\
  polyv world make --scenes 200 --seed 0 --out data/world
  polyv world make --scenes 300 --seed 1 --split test --size 112 --out data/test""",
    )
    make.add_argument("--scenes", metavar="N", type=int, required=True, help="how many scenes")
    make.add_argument("--seed", type=int, default=0, help="seed of the world (default: %(default)s)")
    make.add_argument(
        "--size", metavar="PIXELS", type=int, default=112, help="side of all media (default: %(default)s)"
    )
    make.add_argument("--split", choices=("train", "validation", "test"), default="train", help="default: %(default)s")
    make.add_argument("--workers", metavar="W", type=int, help="processes (default: one a core)")
    make.add_argument("--out", metavar="DIR", type=Path, required=True, help="folder to write or to go on with")
    show = _command(
        world,
        "show",
        _world_show,
        "draw a contact sheet of scenes with questions and answers",
        "Draw some scenes of a world as one picture: image, video frames and views, with questions and true answers.",
        "  polyv world show data/world --scenes 6 --out sheet.png",
    )
    show.add_argument("world", metavar="WORLD", type=Path, help="a folder that `polyv world make` wrote")
    show.add_argument("--scenes", metavar="N", type=int, default=4, help="scenes to draw (default: %(default)s)")
    text = "picture to write (default: %(default)s)"
    show.add_argument("--out", metavar="FILE", type=Path, default=Path("world.png"), help=text)


def _add_evaluate(commands) -> None:
    parser = _command(
        commands,
        "evaluate",
        _evaluate,
        "measure a model on the ten question suites",
        """\
Make a test world for the seed (or reuse the one in --world), ask the model N questions of each suite, and print for
each suite its accuracy, n, the 95 % interval (Wilson) and the prior: how often the best answer that can be
guessed from the question's words alone is right. Works for every model that AutoModelForImageTextToText loads; one
that cannot take a suite's media is refused at the start.
An answer is right when it equals the true one after lower-casing and dropping a final full stop.
The same seed gives the same questions. May be interrupted: the same command goes on where it stopped.

suites: general_image, spatial_image, multi_image, spatial_video, cross_video, general_video, scene_qa, situated_qa,
embodied_qa, temporal_image""",
        """\
  polyv evaluate --model checkpoints/polyv-nano --suites all --n 300 --out report.json
  polyv evaluate --model checkpoints/polyv-nano-backbone --suites scene_qa,general_video --n 100 --out report.json""",
        loads_models=True,
    )
    _add_model(parser)
    _add_questions(parser, n=300)
    text = "report to write (default: %(default)s)"
    parser.add_argument("--out", metavar="FILE", type=Path, default=Path("report.json"), help=text)
    parser.add_argument("--answers", metavar="FILE", type=Path, help="JSONL file of all questions with their answers")


def _add_ablate(commands) -> None:
    parser = _command(
        commands,
        "ablate",
        _ablate,
        "train the arms of a study, measure each, draw one table",
        """\
Do what is left of a study: train its arms, some at once, with a thread each; measure each on the test questions; and
write the table as JSON, Markdown and a picture, anew after each. May be interrupted at any time: the same command goes
on, each training from its last checkpoint. A study's file says which stage each arm is made by, of what, and how it
differs from the stage's recipe.""",
        """\
  polyv ablate --config recipes/polyv-nano/transfer.yaml
  polyv ablate --config recipes/polyv-nano/ablation.yaml --workers 2 --hours 2""",
        loads_models=True,
    )
    parser.add_argument("--config", metavar="YAML", required=True, help="the study")
    parser.add_argument("--workers", metavar="W", type=int, help="trainings at once (default: the study's)")
    parser.add_argument(
        "--hours", metavar="H", type=float, help="begin no run later (default: the study's; 0: no limit)"
    )


def _add_routing(commands) -> None:
    parser = _command(
        commands,
        "routing",
        _routing,
        "which experts take which tokens, and how much they specialise",
        """Ask models N questions of each suite and count where their routers send the tokens: by layer, by modality (text, image,
video, scene, <synergy>) and by suite. Specialisation is a number between 0 and 1: how much the expert tells of the
token's modality, with its 95 % interval, beside what shuffled modalities give. Random routers are not at 0: give the
checkpoint before training as well. Draws a picture beside the report.""",
        """  polyv routing --model checkpoints/polyv-nano --out routing.json
  polyv routing --model runs/polyv-nano-merged --model runs/polyv-nano-full --out routing.json""",
        loads_models=True,
    )
    text = "a PolyV checkpoint with experts; several are drawn side by side (default: checkpoints/polyv-nano)"
    parser.add_argument("--model", metavar="M", action="append", help=text)
    _add_questions(parser, n=100)
    text = "report to write, with a picture beside it (default: %(default)s)"
    parser.add_argument("--out", metavar="FILE.json", type=Path, default=Path("routing.json"), help=text)


def _add_questions(parser: argparse.ArgumentParser, n: int) -> None:
    """Which questions of which test world."""
    parser.add_argument("--suites", default="all", help='"all", or names separated by commas (default: %(default)s)')
    parser.add_argument("--seed", type=int, default=0, help="seed of the test world (default: %(default)s)")
    parser.add_argument("--n", type=int, default=n, help="questions a suite (default: %(default)s)")
    parser.add_argument(
        "--batch-size", metavar="B", type=int, default=16, help="questions a batch (default: %(default)s)"
    )
    text = "folder of the test world, made if it is not there (default: data/evaluation-SEED-N)"
    parser.add_argument("--world", metavar="DIR", type=Path, help=text)


def _add_upcycle(commands) -> None:
    parser = _command(
        commands,
        "upcycle",
        _upcycle,
        "make a PolyV checkpoint of Qwen2.5-VL checkpoints, on disk",
        """\
Write the PolyV that a Qwen2.5-VL checkpoint becomes: each FFN that is replaced is copied to every expert, so that the
result computes what SRC does until it is trained. With --from, checkpoints that were trained from SRC on images,
scenes or videos give an expert each, and SRC's own FFN is the last one. It takes less than 1 GB of memory. May be
interrupted: the same command goes on where it stopped. PolyVForConditionalGeneration.from_pretrained(SRC) does the
same in memory.""",
        """\
  polyv upcycle Qwen/Qwen2.5-VL-7B-Instruct polyv-7b
  polyv upcycle Qwen/Qwen2.5-VL-3B-Instruct polyv-3b --experts 2 --placement front-half
  polyv upcycle base merged --from image=tuned/image --from scene=tuned/scene --from video=tuned/video""",
        loads_models=True,
    )
    parser.add_argument("source", metavar="SRC", help="a Qwen2.5-VL checkpoint: a folder, or a name on the Hub")
    parser.add_argument("out", metavar="DST", type=Path, help="folder to write; it must not exist")
    parser.add_argument("--experts", metavar="N", type=int, help="experts a layer (default: 4)")
    parser.add_argument("--top-k", metavar="K", type=int, help="experts that a token goes to (default: 2)")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--every", metavar="K", type=int, help="every K-th layer holds experts (default: 4)")
    text = "which layers hold experts: every one, or every one of the first half"
    where.add_argument("--placement", choices=("every-layer", "front-half"), help=text)
    text = "after which layer the synergy heads read <synergy>: 1 to the number of layers (default: the last)"
    parser.add_argument("--synergy-layer", metavar="N", type=int, help=text)
    parser.add_argument("--synergy-tokens", metavar="N", type=int, help="<synergy> that open a turn (default: 1)")
    text = "a checkpoint whose FFNs become an expert; MODALITY is image, scene or video; may be given several times"
    parser.add_argument("--from", metavar="MODALITY=CHECKPOINT", dest="merge", action="append", default=[], help=text)
    parser.add_argument("--seed", type=int, default=0, help="seed of routers and synergy heads (default: %(default)s)")


def _add_export(commands) -> None:
    parser = _command(
        commands,
        "export",
        _export,
        "give a checkpoint its code, so that it loads without this package",
        """\
Copy a PolyV checkpoint and add its code as flat files, with the `auto_map` entries by which transformers finds
them: AutoModelForImageTextToText.from_pretrained(OUT, trust_remote_code=True) then works where `polyv` is not
installed, and so does AutoProcessor. OUT may be MODEL itself: its code is then brought up to date. What a training
left in MODEL (its checkpoints, optimizer, logs) and hidden files are not copied. Where MODEL is an adapter, as
`--trainable lora` trains them, OUT holds its base with the adapter merged into it: a whole checkpoint, to train on.""",
        "  polyv export runs/mine exported/mine\n  polyv export runs/mine exported/mine --dtype bfloat16",
        loads_models=True,
    )
    text = "a PolyV checkpoint, or an adapter: a folder, or a name on the Hub"
    parser.add_argument("model", metavar="MODEL", help=text)
    parser.add_argument("out", metavar="OUT", type=Path, help="folder to write")
    dtypes = ("float32", "bfloat16", "float16")
    text = "cast the weights to this (default: as they are; what was an adapter is float32)"
    parser.add_argument("--dtype", choices=dtypes, help=text)


def _add_model(parser: argparse.ArgumentParser) -> None:
    text = "a checkpoint: a folder, or a name on the Hub (default: %(default)s)"
    parser.add_argument("--model", metavar="M", default="checkpoints/polyv-nano", help=text)


def build_parser() -> argparse.ArgumentParser:
    """The parser of `polyv` with all its subcommands."""
    parser = argparse.ArgumentParser(
        prog="polyv", usage="polyv COMMAND ...", description=_DESCRIPTION, formatter_class=_Formatter
    )
    parser.add_argument("--version", action="version", version=f"polyv {polyv.__version__}")
    commands = parser.add_subparsers(prog="polyv", metavar="COMMAND", required=True, help=argparse.SUPPRESS)
    for add in (_add_ask, _add_demo, _add_world, _add_evaluate, _add_ablate, _add_routing, _add_upcycle, _add_export):
        add(commands)
    for add_more in (add_csqa, add_data, add_train, add_merge, add_teachers, add_plan):
        add_more(commands, _command)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run `polyv` with `argv` (default: the command line). Returns the exit code.

    What a user can mend (ValueError, TypeError, OSError, ImportError) ends as one line and exit code 2;
    `POLYV_DEBUG=1` gives the traceback instead. Anything else is a bug of ours and shows as one.
    """
    argv = sys.argv[1:] if argv is None else argv
    args, rest = build_parser().parse_known_args(argv)
    if rest and not getattr(args, "takes_rest", False):
        args.parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if args.loads_models:
        polyv.register()
    try:
        args.run(args, rest)
    except (ValueError, TypeError, OSError, ImportError) as error:
        if os.environ.get("POLYV_DEBUG"):
            raise
        print(f"{args.parser.prog}: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{args.parser.prog}: interrupted", file=sys.stderr)
        return 130
    return 0
