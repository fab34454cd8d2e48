# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""`polyv evaluate`: ask a model the questions of unseen scenes, suite by suite, and compare with guessing."""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tqdm import tqdm
from transformers import PreTrainedModel
from transformers.utils import logging

from polyv.ask import answer, answer_one, load, media_of
from polyv.evaluation.metrics import ExactMatch
from polyv.evaluation.suites import parse_suites, select_questions
from polyv.files import write_whole
from polyv.world import priors
from polyv.world.make import VERSION, has_current_questions, make_world


SIZE = 112
"""Side of the test world's media in pixels: what the nano models were trained on."""

PRIOR = Path(priors.__file__).with_name("priors.json")
"""What question texts alone tell, fitted on training seeds (see polyv.world.priors)."""


def run(
    model: str,
    suites: str,
    seed: int,
    n: int,
    out: Path,
    world: Path | None = None,
    batch_size: int = 16,
    answers: Path | None = None,
) -> dict:
    """Measure `model` on `n` test questions of each of `suites`, print a table and write it to `out` as JSON.

    May be interrupted: each batch's answers go to a file beside `out`, `out`.partial.jsonl, and the same call, at any
    batch size, asks only the rest. Answers to another request, or of a checkpoint that has changed, are thrown away.

    Args:
        model: folder or Hub name of any model that AutoModelForImageTextToText loads.
        suites: "all", or names separated by commas.
        seed: seed of the test world, and of the choice of questions.
        n: questions a suite.
        out: file to write; it appears only once it is whole.
        world: folder of the test world, made where it is not there. Default: data/evaluation-`seed`-`n`.
        batch_size: questions a batch.
        answers: JSONL file to write, of each question with what the model answered, see `write_answers`.

    Returns:
        What `out` holds: `{"suites": {name: {"accuracy", "n", "interval", "prior"}}, "templates": (the same for
        each "suite/template"), "mean_accuracy", "mean_prior", "model", "seed", "world", "n"}`. `prior` is the accuracy,
        on the same questions, of the best answer that the question's words alone suggest, as fitted on training seeds.

    Raises:
        ValueError: an unknown suite; `n` or `batch_size` below 1; an `out` that cannot be written; a world that holds
            training scenes, or too few questions, or another seed, or that another version made; a kind of question
            that the prior does not know; a medium that the model cannot take.
    """
    names = parse_suites(suites)
    check_at_least_one(n=n, batch_size=batch_size)
    check_out(out)
    if answers is not None:
        check_out(answers, "answers")
    folder = world or default_world(seed, n)
    there = check_world(folder, seed)
    logging.disable_progress_bar()
    loaded, processor = load(model)
    questions = questions_of(folder, there, names, n, seed)
    _check_prior(priors.load(PRIOR), questions)  # as `score` will, but not after hours of asking

    def ask(rows: list[dict]) -> list[str]:
        return answer(loaded, processor, [asked(row) for row in rows], max_new_tokens=16)

    for messages in {media_of(asked(row)): asked(row) for row in questions}.values():
        answer_one(model, loaded, processor, messages, max_new_tokens=1)  # refuse now, not after hours
    request = make_request(model, loaded, names, seed, n, folder, questions)
    partial = out.with_name(out.name + ".partial.jsonl")
    given = ask_all(questions, batch_size, request, partial, ask)
    report = score(questions, [given[row["id"]] for row in questions]) | {"model": model, "seed": seed}
    report |= {"world": str(folder), "n": n}
    if answers is not None:
        write_answers(answers, questions, given)
    write_whole(out, json.dumps(report, indent=2) + "\n")
    partial.unlink()
    print(table(report))
    print(f"model {model}, seed {seed}, {loaded.device}; written to {out}")
    return report


def score(questions: list[dict], answers: list[str]) -> dict:
    """Per suite and per template: accuracy, n, interval and prior; and the means over suites.

    Args:
        questions: rows of questions.jsonl ("suite", "template", "question", "answer").
        answers: the model's answers, in the same order.

    Raises:
        ValueError: there are more or fewer answers than questions, or the prior does not know a kind of question.
    """
    if len(answers) != len(questions):
        raise ValueError(f"answers: got {len(answers)} for {len(questions)} questions, expected one for each.")
    prior = priors.load(PRIOR)
    _check_prior(prior, questions)
    suites: dict[str, list[int]] = {}
    templates: dict[str, list[int]] = {}
    for index, row in enumerate(questions):
        suites.setdefault(row["suite"], []).append(index)
        templates.setdefault(f"{row['suite']}/{row['template']}", []).append(index)

    def score_each(groups: dict[str, list[int]]) -> dict[str, dict]:
        return {
            name: _score([questions[i] for i in rows], [answers[i] for i in rows], prior)
            for name, rows in groups.items()
        }

    by_suite = score_each(suites)
    return {
        "suites": by_suite,
        "templates": score_each(templates),
        "mean_accuracy": sum(row["accuracy"] for row in by_suite.values()) / len(by_suite),
        "mean_prior": sum(row["prior"] for row in by_suite.values()) / len(by_suite),
    }


def write_answers(out: Path, questions: list[dict], given: dict[str, str]) -> None:
    """Write a JSONL file of the questions' "id", "scene_id" (None where a question names none), "suite", "template",
    "question", "answer" (the true one), and "given", the model's, by the question's id."""
    keys = ("id", "scene_id", "suite", "template", "question", "answer")
    rows = ({**{key: row.get(key) for key in keys}, "given": given[row["id"]]} for row in questions)
    write_whole(out, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def table(report: dict) -> str:
    """The report as aligned text: one line a suite, then the mean."""
    lines = [f"{'suite':<16} {'accuracy':>8} {'n':>6} {'95 % interval':>15} {'prior':>7}"]
    for name, row in report["suites"].items():
        low, high = row["interval"]
        interval = f"{low:.3f} - {high:.3f}"
        lines.append(f"{name:<16} {row['accuracy']:>8.3f} {row['n']:>6} {interval:>15} {row['prior']:>7.3f}")
    lines.append(f"{'mean':<16} {report['mean_accuracy']:>8.3f} {'':>6} {'':>15} {report['mean_prior']:>7.3f}")
    return "\n".join(lines)


def asked(question: dict) -> list[dict]:
    """The messages of a question less the last one, which is the true answer."""
    return question["messages"][:-1]


def default_world(seed: int, n: int) -> Path:
    """Where the test world is, or is made, if no other folder is given."""
    return Path("data") / f"evaluation-{seed}-{n}"


def questions_of(folder: Path, manifest: dict, suites: list[str], n: int, seed: int) -> list[dict]:
    """`n` questions of each suite of the test world in `folder`, which is made where it is not there.

    Args:
        manifest: what `check_world` gave for `folder`.
    """
    if not has_current_questions(folder):
        # A world that is there keeps its scenes: only those that lack are made, and its questions anew.
        scenes, split = manifest.get("scenes", _scenes_for(n)), manifest.get("split", "test")
        make_world(folder, scenes=scenes, seed=seed, size=SIZE, split=split, workers=None, progress=True)
    return select_questions(folder, suites, n, seed)


def make_request(
    model: str,
    loaded: PreTrainedModel,
    suites: list[str],
    seed: int,
    n: int,
    world: Path,
    questions: list[dict],
) -> dict:
    """What `ask_all` tells by that a partial file holds answers to the same questions, of the same checkpoint."""
    request = {"model": model, "files": _fingerprint(model, loaded), "suites": suites, "seed": seed, "n": n}
    return request | {"world": str(world), "questions": _digest(questions)}


def _fingerprint(model: str, loaded: PreTrainedModel) -> list:
    """What changes when another checkpoint takes the place of this one: its commit on the Hub, or its files."""
    if not Path(model).is_dir():
        return [getattr(loaded.config, "_commit_hash", None)]
    kinds = ("*.safetensors", "*.bin", "*config.json", "tokenizer.json", "*.jinja")
    stats = {path.name: path.stat() for kind in kinds for path in Path(model).glob(kind)}
    return [[name, stat.st_size, stat.st_mtime_ns] for name, stat in sorted(stats.items())]


def _digest(questions: list[dict]) -> str:
    """Tells apart the questions of versions that ask differently under the same ids."""
    return hashlib.sha256(json.dumps(questions).encode()).hexdigest()


def _answers_so_far(path: Path, request: dict) -> dict[str, Any]:
    """What an interrupted run of the same request left in `path`: question id to answer."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
    rows = [json.loads(line) for line in lines if line.endswith("\n")]  # a kill may have cut the last line short
    if rows and rows[0] != request:
        print(f"{path}: answers to another request, or of a checkpoint that has changed since: beginning anew")
        return {}
    return {name: given for row in rows[1:] for name, given in row.items()}


def ask_all(
    questions: list[dict], batch_size: int, request: dict, partial: Path, ask: Callable[[list[dict]], list]
) -> dict[str, Any]:
    """Question id to what `ask` gives for the question. The file `partial` gets the request as its first line, then
    batch by batch what `ask` gave; what it holds already is not asked again."""
    answers = _answers_so_far(partial, request)
    rest = [row for row in questions if row["id"] not in answers]
    write_whole(partial, json.dumps(request) + "\n" + json.dumps(answers) + "\n")
    progress = tqdm(total=len(questions), initial=len(answers), desc="questions", unit="question")
    with progress, open(partial, "a", encoding="utf-8") as file:
        for start in range(0, len(rest), batch_size):
            batch = rest[start : start + batch_size]
            answered = dict(zip([row["id"] for row in batch], ask(batch), strict=True))
            file.write(json.dumps(answered) + "\n")
            file.flush()
            answers.update(answered)
            progress.update(len(answered))
    return answers


def _score(questions: list[dict], answers: list[str], prior: dict) -> dict:
    truth = [row["answer"] for row in questions]
    metric = ExactMatch(keep_in_memory=True)
    scores = metric.compute(predictions=answers, references=truth)
    guesses = metric.compute(predictions=[priors.predict(prior, row) for row in questions], references=truth)
    return {**scores, "prior": guesses["accuracy"]}


def check_at_least_one(**numbers: int) -> None:
    """Refuse a number of questions, or the like, that is below 1."""
    for argument, number in numbers.items():
        if number < 1:
            raise ValueError(f"{argument}={number}: expected at least 1.")


def check_out(out: Path, argument: str = "out") -> None:
    """Refuse a file that cannot be written, before hours are spent on what it is to hold."""
    there = next(folder for folder in out.resolve().parents if folder.exists())
    if out.is_dir() or not there.is_dir() or not os.access(there, os.W_OK):
        fault = "is a folder" if out.is_dir() else f"cannot be written in {there}"
        raise ValueError(f"{argument}={out}: it {fault}. Give another file to write.")


def _check_prior(prior: dict, questions: list[dict]) -> None:
    """Refuse questions of a kind that the prior was not fitted on: their prior would read 0, which flatters a model."""
    unknown = sorted({f"{row['suite']}/{row['template']}" for row in questions} - prior["kinds"].keys())
    if unknown:
        raise ValueError(
            f"{PRIOR.name} knows no questions of the kinds {', '.join(unknown)}. Fit it anew: see polyv.world.priors."
        )


def check_world(folder: Path, seed: int) -> dict:
    """Refuse a folder that holds training scenes, those of another seed, or what is not comparable to what would be
    made today. Returns the world's manifest, empty where there is none yet."""
    if not (folder / "manifest.json").exists():
        return {}
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    if manifest["split"] == "train" or manifest["seed"] != seed:
        raise ValueError(
            f"world={folder} holds scenes of the {manifest['split']} split with seed {manifest['seed']}; expected the "
            f"test (or validation) split with seed {seed}. Give another --world or --seed."
        )
    today = {"version": VERSION, "size": SIZE}
    differing = [name for name in today if manifest.get(name) != today[name]]
    if differing:
        there, expected = (", ".join(f"{name} {of.get(name)}" for name in differing) for of in (manifest, today))
        raise ValueError(
            f"world={folder} was made with {there}; expected {expected}. Delete it, and it is made anew, or give another "
            "--world."
        )
    return manifest


def _scenes_for(n: int) -> int:
    """Scenes that yield at least `n` questions of every suite: a cross-video one comes with half of the scenes."""
    return 2 * n + 12
