# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""`polyv csqa`: its commands, for `polyv.cli`."""

import argparse
from collections.abc import Callable
from pathlib import Path


def _build(args: argparse.Namespace, rest: list[str]) -> None:
    from polyv.csqa.dataset import build

    source = args.source[0] if args.source == ["world"] else args.source
    wording = {"wording": args.wording, "cache": args.wording_cache, "concurrency": args.concurrency}
    print(
        f"seed {args.seed}\n{build(args.out, args.questions, args.seed, source, args.size, args.workers, **wording)}"
    )


def _verify(args: argparse.Namespace, rest: list[str]) -> None:
    from polyv.csqa.verify import verify, verify_pixels

    reports = [verify(args.dataset)]
    print(reports[0].to_text())
    if args.pixels:
        reports.append(verify_pixels(args.dataset, args.pixels, args.seed))
        print(f"\nfrom the pixels of up to {args.pixels} scenes, seed {args.seed}\n{reports[1].to_text()}")
    if any(report.mismatches for report in reports):
        raise SystemExit(1)


def _show(args: argparse.Namespace, rest: list[str]) -> None:
    from polyv.csqa.show import show

    print(*show(args.dataset, args.out, args.samples, args.split, args.seed), sep="\n")


def _import(args: argparse.Namespace, rest: list[str]) -> None:
    from polyv.csqa.importing import import_graphs

    count, faults = import_graphs(args.format, args.source, args.out, args.media)
    print(f"{args.out}: {count} scene graphs; {faults.to_text()}")


def _fill(args: argparse.Namespace, rest: list[str]) -> None:
    from polyv.csqa.filling import fill

    filled = fill(args.dataset, args.media, args.out)
    lacking = f"; {filled.rows_without} rows, all of {filled.scenes_without} scenes among them, lack media"
    print(f"{filled.path}: {filled.rows} rows{lacking if filled.rows_without else ''}")


def add_csqa(commands, command: Callable) -> None:
    """Add `polyv csqa` to the commands; `command` makes a parser, as `polyv.cli` does."""
    csqa = command(
        commands,
        "csqa",
        None,
        "make questions whose every answer can be derived again, or derive them again",
        """\
CSQA: questions across images, videos and 3D scenes, whose answers programs compute from scene graphs.""",
    ).add_subparsers(title="commands", prog="polyv csqa", metavar="COMMAND", required=True)
    build = command(
        csqa,
        "build",
        _build,
        "write a dataset of questions with their media, programs and graphs",
        """\
Write DIR: Parquet files that `datasets.load_dataset` reads and `polyv train` takes, the scene graphs that the answers
come from, and a card. From the simulated world, which is made for this, or from scene graphs of your own: JSON Lines
of `polyv.csqa.records.SceneRecord`, with media paths relative to the file. Uses all cores to render. May be
interrupted: the same command goes on where it stopped, and ends with the same bytes.

With --wording openai:MODEL, a model says the questions in other words, through any endpoint of OpenAI's protocol
(OPENAI_BASE_URL, OPENAI_API_KEY). It is not told the answers. A wording is taken only if a second request reads it
as the same question; else the template's words stay, and DIR/rejected_wordings.jsonl says why.""",
        """\
  polyv csqa build --source world --questions 20000 --seed 0 --out csqa-world
  polyv csqa build --source graphs.jsonl --questions 500 --seed 0 --out csqa-mine
  polyv csqa build --questions 2000 --wording openai:gpt-4o --out csqa-worded""",
    )
    text = 'JSON Lines files of scene graphs, or "world" (default)'
    build.add_argument("--source", metavar="FILE", nargs="+", default=["world"], help=text)
    build.add_argument("--questions", metavar="N", type=int, required=True, help="how many, over all splits")
    build.add_argument("--seed", type=int, default=0, help="of the world and of the choice (default: %(default)s)")
    text = "side of the world's pictures (default: %(default)s)"
    build.add_argument("--size", metavar="PIXELS", type=int, default=112, help=text)
    build.add_argument("--workers", metavar="W", type=int, help="processes that render (default: one a core)")
    text = 'whose words: "template" (default), or "openai:MODEL"'
    build.add_argument("--wording", metavar="WHO", default="template", help=text)
    text = "where a model's answers are kept (default: polyv/wording in the cache of Hugging Face)"
    build.add_argument("--wording-cache", metavar="FOLDER", type=Path, help=text)
    text = "requests to the model at a time (default: %(default)s)"
    build.add_argument("--concurrency", metavar="N", type=int, default=8, help=text)
    build.add_argument("--out", metavar="DIR", type=Path, required=True, help="folder to write; it must not exist")
    load = command(
        csqa,
        "import",
        _import,
        "read the scene graphs of PVSG, Action Genome or 3DSSG",
        """\
Write the scene graphs of published annotations as JSON Lines, for `polyv csqa build --source FILE`. SOURCE is pvsg.json,
or the folder "annotations" of Action Genome, or a folder of relationships.json, objects.json (3DSSG) and 3RScan.json. The
folder of the media tells where things show: masks of PVSG (vidor/masks and so on), videos of Action Genome (videos/,
whose rate of frames is needed), scans of 3RScan. Bad rows are left out, counted and named; a file of another format is
refused.""",
        """\
  polyv csqa import pvsg data/pvsg.json --media data --out pvsg.jsonl
  polyv csqa import action_genome dataset/ag/annotations --media dataset/ag --out ag.jsonl
  polyv csqa import 3dssg data/3DSSG --media data/3RScan --out 3dssg.jsonl""",
    )
    load.add_argument("format", metavar="FORMAT", choices=("pvsg", "action_genome", "3dssg"), help="%(choices)s")
    load.add_argument("source", metavar="SOURCE", type=Path, help="the file, or the folder, of the annotations")
    load.add_argument("--media", metavar="FOLDER", type=Path, help="folder of the media (default: none at hand)")
    load.add_argument("--out", metavar="FILE", type=Path, required=True, help="JSON Lines to write; it must not exist")
    supply = command(
        csqa,
        "fill",
        _fill,
        "put your media into a dataset that only names them",
        """\
Annotations of third parties make datasets without media, which their licences do not let you share. This writes a copy
that holds those that you have, for training with it yourself; rows of which you have not are left out, and counted.
May be interrupted: the same command goes on where it stopped.""",
        """\
  polyv csqa fill csqa-pvsg --media data --out csqa-pvsg-mine
  polyv csqa fill csqa-annotated --media data dataset/ag data/3RScan --out csqa-annotated-mine""",
    )
    supply.add_argument("dataset", metavar="DIR", type=Path, help="a folder that `polyv csqa build` wrote")
    text = "folders, in one of which the paths of each graph start"
    supply.add_argument("--media", metavar="FOLDER", type=Path, nargs="+", required=True, help=text)
    supply.add_argument("--out", metavar="DIR", type=Path, required=True, help="folder to write; it must not exist")
    verify = command(
        csqa,
        "verify",
        _verify,
        "execute every program of a dataset again",
        """\
Execute every program of a dataset again, on the graphs that come with it, and compare answers, supports, distractors
and texts. Prints a table, names each row that does not agree, and then ends with 1. With --pixels N, answers on N
scenes of the simulated world are derived once more, by code that shares nothing with the programs: from the words of
the question and from rendered pixels.""",
        "  polyv csqa verify csqa-world\n  polyv csqa verify csqa-world --pixels 50",
    )
    verify.add_argument("dataset", metavar="DIR", type=Path, help="a folder that `polyv csqa build` wrote")
    text = "test scenes of the world to render again, about a second each (default: %(default)s)"
    verify.add_argument("--pixels", metavar="N", type=int, default=0, help=text)
    verify.add_argument("--seed", type=int, default=0, help="of the choice of these (default: %(default)s)")
    show = command(
        csqa,
        "show",
        _show,
        "draw a page of samples for each family",
        "Draw samples of each family: what is shown, the question, its answer, distractors, and what the answer rests on.",
        "  polyv csqa show csqa-world --samples 12 --out pages",
    )
    show.add_argument("dataset", metavar="DIR", type=Path, help="a folder that `polyv csqa build` wrote")
    show.add_argument("--samples", metavar="N", type=int, default=10, help="on a page (default: %(default)s)")
    show.add_argument("--split", choices=("train", "validation", "test"), default="test", help="default: %(default)s")
    show.add_argument("--seed", type=int, default=0, help="of the choice (default: %(default)s)")
    text = "folder for the pages (default: %(default)s)"
    show.add_argument("--out", metavar="FOLDER", type=Path, default=Path("csqa_pages"), help=text)
