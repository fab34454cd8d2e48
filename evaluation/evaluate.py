# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""`polyv evaluate`: ask a model the questions of unseen scenes, suite by suite, and compare with guessing."""

import json
import os
from pathlib import Path

from tqdm import tqdm
from transformers.utils import logging

from polyv.ask import answer, load
from polyv.evaluation.metrics import ExactMatch
from polyv.evaluation.suites import parse_suites, select_questions
from polyv.world import priors
from polyv.world.make import make_world


SIZE = 112
"""Side of the test world's media in pixels: what the nano models were trained on."""

PRIOR = Path(priors.__file__).with_name("priors.json")
"""What question texts alone tell, fitted on training seeds (see polyv.world.priors)."""


def run(
    model: str, suites: str, seed: int, n: int, out: Path, world: Path | None = None, batch_size: int = 16
) -> dict:
    """Measure `model` on `n` test questions of each of `suites`, print a table and write it to `out` as JSON.

    Args:
        model: folder or Hub name of any model that AutoModelForImageTextToText loads.
        suites: "all", or names separated by commas.
        seed: seed of the test world, and of the choice of questions.
        n: questions a suite.
        out: file to write; it appears only once it is whole.
        world: folder of the test world, made where it is not there. Default: data/evaluation-`seed`-`n`.
        batch_size: questions a batch.

    Returns:
        What `out` holds: `{"suites": {name: {"accuracy", "n", "interval", "prior"}}, "templates": (the same for
        each "suite/template"), "mean_accuracy", "mean_prior", "model", "seed"}`. `prior` is the accuracy, on the same
        questions, of the best answer that the question's words alone suggest, as fitted on training seeds.

    Raises:
        ValueError: an unknown suite; a world that holds training scenes, or too few questions, or another seed.
    """
    names = parse_suites(suites)
    folder = world or Path("data") / f"evaluation-{seed}-{n}"
    _check_world(folder, seed)
    logging.disable_progress_bar()
    loaded, processor = load(model)
    if not (folder / "questions.jsonl").exists():
        make_world(folder, scenes=_scenes_for(n), seed=seed, size=SIZE, split="test", workers=None, progress=True)
    questions = select_questions(folder, names, n, seed)
    answers: list[str] = []
    with tqdm(total=len(questions), desc="questions", unit="question") as progress:
        for start in range(0, len(questions), batch_size):
            batch = questions[start : start + batch_size]
            # The last message is the true answer.
            answers += answer(loaded, processor, [row["messages"][:-1] for row in batch], max_new_tokens=16)
            progress.update(len(batch))
    report = score(questions, answers) | {"model": model, "seed": seed}
    _write(out, report)
    print(table(report))
    print(f"model {model}, seed {seed}, {loaded.device}; written to {out}")
    return report


def score(questions: list[dict], answers: list[str]) -> dict:
    """Per suite and per template: accuracy, n, interval and prior; and the means over suites.

    Args:
        questions: rows of questions.jsonl ("suite", "template", "question", "answer").
        answers: the model's answers, in the same order.
    """
    prior = priors.load(PRIOR)
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


def table(report: dict) -> str:
    """The report as aligned text: one line a suite, then the mean."""
    lines = [f"{'suite':<16} {'accuracy':>8} {'n':>6} {'95 % interval':>15} {'prior':>7}"]
    for name, row in report["suites"].items():
        low, high = row["interval"]
        interval = f"{low:.3f} - {high:.3f}"
        lines.append(f"{name:<16} {row['accuracy']:>8.3f} {row['n']:>6} {interval:>15} {row['prior']:>7.3f}")
    lines.append(f"{'mean':<16} {report['mean_accuracy']:>8.3f} {'':>6} {'':>15} {report['mean_prior']:>7.3f}")
    return "\n".join(lines)


def _score(questions: list[dict], answers: list[str], prior: dict) -> dict:
    truth = [row["answer"] for row in questions]
    metric = ExactMatch(keep_in_memory=True)
    scores = metric.compute(predictions=answers, references=truth)
    guesses = metric.compute(predictions=[priors.predict(prior, row) for row in questions], references=truth)
    return {**scores, "prior": guesses["accuracy"]}


def _check_world(folder: Path, seed: int) -> None:
    """Refuse a folder that holds training scenes or those of another seed. A folder that is not there is fine."""
    if not (folder / "manifest.json").exists():
        return
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    if manifest["split"] == "train" or manifest["seed"] != seed:
        raise ValueError(
            f"world={folder} holds scenes of the {manifest['split']} split with seed {manifest['seed']}; expected the "
            f"test (or validation) split with seed {seed}. Give another --world or --seed."
        )


def _scenes_for(n: int) -> int:
    """Scenes that yield at least `n` questions of every suite: a cross-video one comes with half of the scenes."""
    return 2 * n + 12


def _write(path: Path, report: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    os.replace(partial, path)
