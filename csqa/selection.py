# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""Chooses questions over many scenes such that neither a template nor an answer prevails."""

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from polyv.csqa.balance import Balance
from polyv.csqa.programs import QuestionProgram
from polyv.csqa.questions import TEMPLATES
from polyv.csqa.records import SceneRecord
from polyv.csqa.templates import Question, Scene
from polyv.world.priors import fit, prior_accuracy


# Questions of one template and scene.
_MOST = 2
_NAMES = ("a", "b", "c")
# No template is asked of which the words alone would tell more answers than this, where there are enough rows to know.
CAP, ENOUGH = 0.65, 100
TEMPLATE = "template"  # whose words a question has


class _Candidate(NamedTuple):
    """A question as `Balance` looks at it. Of "which of two", what tells is of which kind the right one is, not its name."""

    question: Question
    answer: str
    given: str


def select(records: Iterable[SceneRecord], seed: int, refused: Counter[str] | None = None) -> list[dict[str, Any]]:
    """Questions on all of the scenes, in their order: rows without media.

    Args:
        records: the scene graphs of one split.
        seed: the same records and seed give the same rows.
        refused: counts why questions that were thought of are ill-posed.

    Returns:
        Rows of `id`, `scene_id`, `family`, `template`, `question`, `plain`, `wording`, `answer`, `distractors`, `shown`, `needed`, `messages`, and, as
        JSON, `program`, `support` and `provenance`.
    """
    balance = Balance()
    rows = []
    for index, record in enumerate(records):
        rng = np.random.default_rng([seed, index])
        scene = Scene(record, rng)
        for template in TEMPLATES:
            found = [_candidate(question) for question in template.ask(scene, refused=refused)]
            for number, candidate in enumerate(balance.choose(template.name, found, _MOST, rng)):
                wording = template.wordings[rng.integers(len(template.wordings))]
                rows.append(_row(record, candidate.question, wording, number))
    return rows


def thin(rows: Sequence[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    """`count` of the rows, which must be as many, in their order: of the templates that have most, the first ones only."""
    available = Counter(row["template"] for row in rows)
    quota = max(quota for quota in range(count + 1) if sum(min(n, quota) for n in available.values()) <= count)
    spare = count - sum(min(n, quota) for n in available.values())
    taken: Counter[str] = Counter()
    kept = []
    for row in rows:
        name = row["template"]
        if taken[name] == quota and spare:
            spare -= 1
        elif taken[name] >= quota:
            continue
        taken[name] += 1
        kept.append(row)
    return kept


def text_priors(training: Iterable[dict[str, Any]], rows: Iterable[dict[str, Any]]) -> dict[str, float]:
    """Of each template, how many answers the words of the question alone would give: predictors fitted to the training rows,
    measured on others (see `polyv.world.priors`)."""
    fitted = fit(_blind(row, "train") for row in training)
    by_template: defaultdict[str, list[dict[str, str]]] = defaultdict(list)
    for row in rows:
        if f"csqa/{row['template']}" in fitted["kinds"]:
            by_template[row["template"]].append(_blind(row, "test"))
    return {name: prior_accuracy(fitted, asked)["csqa"] for name, asked in sorted(by_template.items())}


def crossed_priors(training: Sequence[dict[str, Any]]) -> dict[str, float]:
    """The same within the training split: fitted to half of the scenes and measured on the others, both ways. Of templates with
    fewer than `ENOUGH` rows it would say little: they are left out."""
    half = {scene: number % 2 for number, scene in enumerate(dict.fromkeys(row["scene_id"] for row in training))}
    halves = [[row for row in training if half[row["scene_id"]] == number] for number in (0, 1)]
    if not all(halves):
        return {}
    measured = [text_priors(halves[number], halves[1 - number]) for number in (0, 1)]
    counts = Counter(row["template"] for row in training)
    asked_in_both = measured[0].keys() & measured[1].keys()
    return {
        name: (measured[0][name] + measured[1][name]) / 2 for name in sorted(asked_in_both) if counts[name] >= ENOUGH
    }


def _blind(row: dict[str, Any], split: str) -> dict[str, str]:
    """A row as the predictors read it, a name of two words being one."""
    names = re.compile(r"\b([a-z]+) ([a-z]+)\b") if " " in row["answer"] else None
    question = row["question"]
    if names is not None:
        question = " ".join([names.sub(_joined, part) for part in re.split(r"(?<=the) ", question)])
    return {
        "id": f"{split}-{row['id']}",
        "suite": "csqa",
        "template": row["template"],
        "question": question,
        "answer": row["answer"].replace(" ", ""),
    }


def _joined(match: re.Match) -> str:
    return match.group(1) + match.group(2)


def _candidate(question: Question) -> _Candidate:
    slots, answer = question.proposal.slots, question.answer.answer
    kinds = {slots[slot]: slots[slot].split()[-1] for slot in _NAMES if slot in slots}
    told = sorted(kinds[slots[slot]] for slot in ("a", "b") if slot in slots)
    given = " ".join([*told, *(slots[slot] for slot in ("under", "p", "q") if slot in slots)])
    return _Candidate(question, kinds.get(answer, answer), given)


def _row(record: SceneRecord, question: Question, wording: str, number: int) -> dict[str, Any]:
    template, (slots, program) = question.template, question.proposal
    text = wording.format(**slots)
    content = [*({"type": medium} for medium in template.shown), {"type": "text", "text": text}]
    answer = question.answer
    return {
        "id": f"{record.scene_id}-{template.name}-{number}",
        "scene_id": record.scene_id,
        "family": template.family,
        "template": template.name,
        "question": text,
        "plain": text,
        "wording": TEMPLATE,
        "reading": None,
        "answer": answer.answer,
        "distractors": list(answer.distractors),
        "shown": list(template.shown),
        "needed": template.needed,
        "messages": [
            {"role": "user", "content": content},
            {"role": "assistant", "content": [{"type": "text", "text": answer.answer}]},
        ],
        "program": QuestionProgram(answer=program).model_dump_json(exclude_none=True),
        "support": answer.support.model_dump_json(),
        "provenance": json.dumps({"source": record.source, **record.provenance}),
    }


__all__ = ["CAP", "ENOUGH", "TEMPLATE", "crossed_priors", "select", "text_priors", "thin"]
