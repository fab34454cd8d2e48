# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""Question-text priors: how well the wording of a question alone tells its answer.

A model that looks at the media must beat this, not the most frequent answer: for "A or B" questions the most frequent
answer is right in one case of eight where a guess is right in one of two. For each kind of question the best of a few
blind predictors is taken, chosen by cross-validation on training questions, never on the ones it is measured on.

`priors.json` beside this file is what `polyv evaluate` compares with; "fitted_on" in it says how it came to be. To fit
it anew:

    polyv world make --scenes 4000 --seed 0 --size 112 --out data/train
    python -m polyv.world.priors data/train --out world/priors.json
"""

import argparse
import json
import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from pathlib import Path

from polyv.files import write_whole
from polyv.world.make import has_current_questions


# Word pairs and words kept per kind of question: enough for its slots, and small enough to commit.
_GRAMS = 60
_FOLDS = 5
_SMOOTHING = 1.0

Row = dict[str, str]
# What is counted on the training questions of one kind.
Counts = dict


def fit(rows: Iterable[dict]) -> dict:
    """Fit blind predictors to rows of a training split's questions.jsonl.

    Returns:
        A JSON-serialisable prior, for `predict`, `prior_accuracy` and `save`.

    Raises:
        ValueError: there are no rows, or one is of another split than "train".
    """
    by_kind: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        if not row["id"].startswith("train-"):
            raise ValueError(
                f"rows: got the question {row['id']!r}, expected training questions only (ids that start with "
                "'train-'); a prior fitted on what it is measured on would flatter it"
            )
        by_kind[_kind(row)].append(row)
    if not by_kind:
        raise ValueError("rows: got no question; pass the rows of a training split's questions.jsonl")
    kinds = {}
    for kind, members in sorted(by_kind.items()):
        counts = _count(members)
        kinds[kind] = {**counts, "method": _best_method(members)}
    return {"kinds": kinds}


def predict(prior: dict, row: dict) -> str:
    """The blind answer to one row of questions.jsonl; of its content only suite, template and question are read.

    Raises:
        ValueError: the prior was fitted without this kind of question. To count it as answered wrong would make any
            model look better than guessing.
    """
    counts = prior["kinds"].get(_kind(row))
    if counts is None:
        raise ValueError(
            f"row: the prior knows no question of the kind {_kind(row)!r}; expected one of {', '.join(prior['kinds'])}. "
            "Fit it anew with `python -m polyv.world.priors` on a training world that asks such questions."
        )
    return _METHODS[counts["method"]](counts, row["question"])


def prior_accuracy(prior: dict, rows: Iterable[dict]) -> dict[str, float]:
    """Share of right blind answers per suite."""
    right: dict[str, list[bool]] = defaultdict(list)
    for row in rows:
        right[row["suite"]].append(predict(prior, row) == row["answer"])
    return {suite: sum(hits) / len(hits) for suite, hits in right.items()}


def save(prior: dict, path: str | Path) -> None:
    """Write a prior as JSON, whole or not at all."""
    write_whole(path, json.dumps(prior, separators=(",", ":"), sort_keys=True) + "\n")


def load(path: str | Path) -> dict:
    """Read what `save` wrote. ValueError if the file is something else."""
    prior = json.loads(Path(path).read_text(encoding="utf-8"))
    if not isinstance(prior, dict) or not isinstance(prior.get("kinds"), dict):
        raise ValueError(f"path: {path} holds no prior; expected what polyv.world.priors.save writes")
    return prior


def _kind(row: dict) -> str:
    return f"{row['suite']}/{row['template']}"


def _words(question: str) -> list[str]:
    return re.findall(r"[a-z]+", question.lower())


def _grams(question: str) -> set[str]:
    words = _words(question)
    return {*words, *(f"{a} {b}" for a, b in pairwise(words))}


def _count(rows: Sequence[Row]) -> Counts:
    """How often each answer was given, and how often with each word and word pair (those that vary most)."""
    answers = Counter(row["answer"] for row in rows)
    grams: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for row in rows:
        for gram in _grams(row["question"]):
            grams[gram][row["answer"]] += 1
    total = len(rows)
    # A word that stands in every question, or hardly in any, tells nothing.
    spread = {gram: min(n := sum(given.values()), total - n) for gram, given in grams.items()}
    kept = sorted((gram for gram in grams if spread[gram] > 1), key=lambda gram: (-spread[gram], gram))[:_GRAMS]
    return {"answers": dict(sorted(answers.items())), "grams": {gram: dict(grams[gram]) for gram in sorted(kept)}}


def _best_method(rows: Sequence[Row]) -> str:
    """The predictor that answers most held-out questions of a kind right; one of the simple three unless another is
    better by more than chance (one standard error)."""
    right = dict.fromkeys(_METHODS, 0)
    for fold in range(_FOLDS):
        counts = _count([row for i, row in enumerate(rows) if i % _FOLDS != fold])
        for row in rows[fold::_FOLDS] if counts["answers"] else ():
            for name, method in _METHODS.items():
                right[name] += method(counts, row["question"]) == row["answer"]
    chance = math.sqrt(len(rows)) / 2
    return max(right, key=lambda name: right[name] - chance * name.startswith("bayes"))


def _majority(counts: Counts, _: str) -> str:
    """The most frequent answer, of equals the first in the alphabet."""
    return min(counts["answers"], key=lambda answer: (-counts["answers"][answer], answer))


def _options(counts: Counts, question: str) -> list[str]:
    """The two answers around "or" ("the red ball or the blue box"), else around "and", else all that are mentioned."""
    words = _words(question)
    for link in ("or", "and"):
        if link in words:
            before = [word for word in words[: words.index(link)] if word in counts["answers"]]
            after = [word for word in words[words.index(link) :] if word in counts["answers"]]
            if before and after:
                return [before[-1], after[0]]
    return [word for word in words if word in counts["answers"]]


def _first_option(counts: Counts, question: str) -> str:
    """The first of the answers that the question offers."""
    return next(iter(_options(counts, question)), _majority(counts, question))


def _last_option(counts: Counts, question: str) -> str:
    """The last of them."""
    return next(reversed(_options(counts, question)), _majority(counts, question))


def _bayes(counts: Counts, question: str, among: Iterable[str] | None = None) -> str:
    """The likeliest answer by naive Bayes (Bernoulli, add-one) over the words and word pairs kept."""
    present = _grams(question)
    total = sum(counts["answers"].values())

    def score(answer: str) -> float:
        given = counts["answers"][answer]
        likelihood = math.log(given / total)
        for gram, by_answer in counts["grams"].items():
            share = (by_answer.get(answer, 0) + _SMOOTHING) / (given + 2 * _SMOOTHING)
            likelihood += math.log(share if gram in present else 1 - share)
        return likelihood

    return max(among or counts["answers"], key=score)


def _bayes_options(counts: Counts, question: str) -> str:
    """Naive Bayes among the answers that the question offers."""
    return _bayes(counts, question, sorted(set(_options(counts, question))))


def _bayes_unmentioned(counts: Counts, question: str) -> str:
    """Naive Bayes among the answers that the question does not mention ("closest to the red ball")."""
    return _bayes(counts, question, [answer for answer in counts["answers"] if answer not in _words(question)])


_METHODS: dict[str, Callable[[Counts, str], str]] = {
    "majority": _majority,
    "first_option": _first_option,
    "last_option": _last_option,
    "bayes": _bayes,
    "bayes_options": _bayes_options,
    "bayes_unmentioned": _bayes_unmentioned,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Fit a prior on a training world, and store with it what it was fitted on.

    Raises:
        ValueError: the world's questions are not today's, or not training questions.
    """
    parser = argparse.ArgumentParser("python -m polyv.world.priors", description="Fit question-text priors.")
    parser.add_argument("world", metavar="WORLD", type=Path, help="a training world that `polyv world make` wrote")
    parser.add_argument("--out", metavar="FILE", type=Path, required=True, help="JSON file to write")
    args = parser.parse_args(arguments)
    if not has_current_questions(args.world):
        raise ValueError(f"{args.world}: its questions are not today's; run `polyv world make` on it again.")
    manifest = json.loads((args.world / "manifest.json").read_text(encoding="utf-8"))
    with (args.world / "questions.jsonl").open(encoding="utf-8") as rows:
        prior = fit(map(json.loads, rows))
    command = f"python -m polyv.world.priors {args.world} --out {args.out}"
    save({"fitted_on": {**manifest, "command": command}, **prior}, args.out)
    print(f"{args.out}: {len(prior['kinds'])} kinds of questions, on {manifest['scenes']} scenes")


if __name__ == "__main__":
    main()
