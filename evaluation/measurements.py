# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""What the arms of a study reached, question by question: a file small enough to commit, from which the study's table is
drawn, its arms are compared, and the study goes on where its runs are not at hand.

`RESULTS.runs.jsonl`, beside a study's results, has a line for each measurement:

    {"run": "temporal-video-image/seed-0/full", "tested": "image",
     "recipe": "9c1f…",            # `Run.recipe`, by which the study knows whether it still says so
     "test": {"questions": "data/…"},  # what it was asked, by the study's file
     "questions": "77ab…",         # tells whether another arm was asked the same
     "seconds": 913.2,             # of training
     "flops": 3.1e6,               # of the decoder, for each token of a prompt of TOKENS
     "commit": "1a2b3c4",          # of the code when its training began or went on, with "+" where it differed
     "suites": {…}, "templates": {…},                # as in the report of `polyv evaluate`
     "right": "110 01 1…",         # 1 a right answer; scenes are apart, in order of their names, and of their questions
     "kinds": "aab ab c…"}         # which of the sorted "templates" each question is of: a the first, b the second, …
"""

import hashlib
import json
import string
import subprocess
from itertools import groupby
from pathlib import Path
from typing import Any

from transformers import AutoConfig

from polyv.evaluation.evaluate import write_whole
from polyv.evaluation.flops import decoder_flops
from polyv.evaluation.metrics import normalise
from polyv.evaluation.study import Run, Study, Test


TOKENS = 256
"""Length of the prompt for whose tokens operations are counted: a clip of four pairs of frames at nano size, and a question."""

KINDS = string.ascii_letters + string.digits
"""Letters of "kinds"."""


def kept_file(study: Study) -> Path:
    """Where a study's measurements are kept."""
    return Path(study.results).with_suffix(".runs.jsonl")


def is_measured(run: Run, test: Test, kept: dict[tuple, dict[str, Any]]) -> bool:
    """Whether what `test` gave is known: its report is there, or it is among `read_kept`.

    Raises:
        ValueError: the report is of a run made otherwise, or of another test.
    """
    if _key(run, test) in kept:
        return True
    if not (test.report.is_file() and is_as_the_study_says(run)):
        return False
    check_report(run, test)
    return True


def check_report(run: Run, test: Test) -> None:
    """Raise ValueError where a report is of another test than the study's file describes now."""
    report = json.loads(test.report.read_text(encoding="utf-8"))
    other = {name: report[name] for name in test.settings if report.get(name) not in (None, test.settings[name])}
    if other:
        raise ValueError(
            f"{run.name}: it was measured with test: {other}, and the study's file has {test.settings} now. Restore it, or "
            f"delete what was measured: rm {test.report} {test.answers}"
        )


def is_as_the_study_says(run: Run) -> bool:
    """Whether what lies in a run's folder was made by the settings that the study has now.

    Raises:
        ValueError: it was made by others. Neither to go on with it nor to call it the new arm would be right.
    """
    noted = run.beside("recipe")
    if noted.is_file() and noted.read_text() == run.recipe():
        return True
    made = bool(run.step.get("stage")) and run.folder.exists()  # without a stage the folder is where it comes from
    # A run that failed before it made anything may be mended.
    if made or any(test.report.is_file() for test in run.tests()):
        how = (
            "with other settings than the study's file has now"
            if noted.is_file()
            else f"by no study: {noted} is missing"
        )
        raise ValueError(
            f"{run.name}: it was made {how}. Restore them, or delete what was made: rm -r "
            f"{run.beside('*')}{f' {run.folder}' if made else ''}"
        )
    return False


def read_kept(study: Study) -> dict[tuple, dict[str, Any]]:
    """The measurements in `kept_file` of runs that are still as the study says.

    Raises:
        ValueError: a line is none.
    """
    return _read_lines(study)[0]


def _read_lines(study: Study) -> tuple[dict[tuple, dict[str, Any]], list[dict[str, Any]]]:
    """Those, and the other ones."""
    file = kept_file(study)
    if not file.is_file():
        return {}, []
    found, others = {}, []
    runs = {run.name: run for run in study.runs()}
    tests = {_key(run, test): test for run in runs.values() for test in run.tests()}
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        try:
            row = json.loads(line)
            key = row["run"], row.get("tested")
            if key in tests and tests[key].settings == row["test"] and runs[row["run"]].recipe() == row["recipe"]:
                found[key] = row
            else:
                others.append(row)
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"{file}, line {number}: it is no measurement ({error!r}).") from error
    return found, others


def gather(study: Study) -> list[tuple[Run, Test, dict[str, Any]]]:
    """All measurements, in the study's order: those that are kept, and those whose reports are there, which are kept now.
    Lines of other recipes or tests, or of runs that the study does not name, stay where they are.

    Raises:
        ValueError: arms of one test were asked other questions.
    """
    kept, others = _read_lines(study)
    found: list[tuple[Run, Test, dict[str, Any]]] = []
    for run in study.runs():
        for test in run.tests():
            if _key(run, test) in kept:
                found.append((run, test, kept[_key(run, test)]))
            elif is_measured(run, test, kept):
                found.append((run, test, _read(run, test)))
    asked: dict[str, dict[str, Any]] = {}
    for _, test, row in found:
        first = asked.setdefault(json.dumps(test.settings), row)
        if row["questions"] != first["questions"]:
            raise ValueError(
                f"{row['run']}: it was asked other questions than {first['run']}. Make the test data alike, or delete the "
                f"lines of one of them from {kept_file(study)}."
            )
    rows = [*(row for _, _, row in found), *others]
    write_whole(kept_file(study), "".join(json.dumps(row) + "\n" for row in rows))
    return found


def _key(run: Run, test: Test) -> tuple[str, str | None]:
    return run.name, test.fields.get("tested")


def _read(run: Run, test: Test) -> dict[str, Any]:
    report = json.loads(test.report.read_text(encoding="utf-8"))
    answers = [json.loads(line) for line in test.answers.read_text(encoding="utf-8").splitlines()]
    answers.sort(key=lambda row: (_scene(row), row["id"]))
    asked = json.dumps([[_scene(row), row["id"], row["question"], row["answer"]] for row in answers])
    scenes = [list(rows) for _, rows in groupby(answers, _scene)]
    right = ["".join("01"[normalise(row["given"]) == normalise(row["answer"])] for row in rows) for rows in scenes]
    letters = dict(zip(sorted(report["templates"]), KINDS, strict=False))
    kinds = ["".join(letters[f"{row['suite']}/{row['template']}"] for row in rows) for rows in scenes]
    return {
        "run": run.name,
        **test.fields,
        "recipe": run.recipe(),
        "test": test.settings,
        "questions": hashlib.sha256(asked.encode()).hexdigest()[:16],
        "seconds": _seconds(run),
        "flops": _flops(run.folder),
        "commit": read_commit(run),
        "suites": report["suites"],
        "templates": report["templates"],
        "right": " ".join(right),
        "kinds": " ".join(kinds),
    }


def _scene(answer: dict[str, Any]) -> str:
    return answer.get("scene_id") or answer["id"]


def _seconds(run: Run) -> float:
    """Of training: a run's own, and those of all that it builds upon."""
    seen: dict[str, float] = {}

    def add(job: Run) -> None:
        file = job.beside("seconds")
        seen[job.name] = float(file.read_text()) if file.is_file() else 0.0
        for need in job.needs():
            add(need)

    add(run)
    return round(sum(seen.values()), 1)


def _flops(checkpoint: Path) -> float | None:
    """A token's, of the decoder; None where the checkpoint is not at hand, as one named on the Hub."""
    if not (checkpoint / "config.json").is_file():
        return None
    config = AutoConfig.from_pretrained(checkpoint).text_config
    return decoder_flops(config, TOKENS, TOKENS, logits=1) / TOKENS


def read_commit(run: Run) -> str | None:
    """What `note_commit` wrote down; None of what was never trained."""
    noted = run.beside("commit")
    return noted.read_text().strip() if noted.is_file() else None


def note_commit(run: Run) -> None:
    """Write down which code trains a run: the commit, with "+" where the code differs from it; nothing where the code
    is in no repository."""

    def git(*words: str) -> subprocess.CompletedProcess:
        return subprocess.run(["git", *words], cwd=Path(__file__).parent, capture_output=True, text=True)

    try:
        commit = git("describe", "--always").stdout.strip()
        differs = git("diff", "--quiet", "HEAD", "--", ":/", ":(top,exclude)docs").returncode
    except OSError:
        return
    if commit:
        write_whole(run.beside("commit"), f"{commit}{'+' if differs else ''}\n")


__all__ = [
    "KINDS",
    "check_report",
    "gather",
    "is_as_the_study_says",
    "is_measured",
    "kept_file",
    "note_commit",
    "read_commit",
    "read_kept",
]
