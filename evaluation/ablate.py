# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""`polyv ablate`: train the arms of a study, measure each, and draw one table.

Every run is a process of its own with one thread, and resumes from its last checkpoint: a study may be interrupted at
any time, and the same command goes on. The table is written anew after each arm.
"""

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import yaml
from tqdm import tqdm

from polyv.ask import answer, load
from polyv.evaluation.evaluate import ask_all, asked, make_request, score, write_answers
from polyv.evaluation.evaluate import run as evaluate
from polyv.evaluation.measurements import check_report, is_as_the_study_says, is_measured, note_commit, read_kept
from polyv.evaluation.results import write_results
from polyv.evaluation.study import STAGES, Run, Study
from polyv.evaluation.study_check import check
from polyv.evaluation.suites import locate_media
from polyv.files import write_whole


_POLL = 1.0  # seconds


def run(config: str | os.PathLike, workers: int | None = None, hours: float | None = None) -> dict[str, Any]:
    """Do what is left of a study, and write its results.

    Args:
        config: the study's YAML file.
        workers, hours: in place of those of the file.

    Returns:
        What the results' JSON file holds.

    Raises:
        ValueError: the file describes no study, or a run failed; its log is named. What does not need it is done first.
    """
    study = Study.read(config)
    study.workers = study.workers if workers is None else workers
    if study.workers < 1:
        raise ValueError(f"workers={study.workers}: expected 1 or more.")
    deadline = time.monotonic() + 3600 * (study.hours if hours is None else hours)
    limited = bool(study.hours if hours is None else hours)
    write_results(study, f"polyv ablate --config {config}")  # what is at hand must fit together before hours are spent
    jobs = _left(study)
    check(study, jobs)
    failed = _work(jobs, study.workers, lambda: limited and time.monotonic() > deadline, str(config))
    results = write_results(study, f"polyv ablate --config {config}")
    left = ", ".join(job.name for job in jobs)
    if failed:
        waiting = f" Not begun, as they build upon these: {left}." if jobs else ""
        raise ValueError(f"config={config}: {len(failed)} runs failed: {'; '.join(failed)}.{waiting}")
    if jobs:
        print(f"{len(jobs)} runs are left, as the time is up; the same command goes on with {left}")
    return results


def _left(study: Study) -> list[Run]:
    """What is to be run, in order: arms that are not measured, and what they build upon, where that is not there."""
    kept = read_kept(study)
    wanted: set[str] = set()

    def want(run: Run) -> None:
        wanted.add(run.name)
        is_as_the_study_says(run)
        if not run.is_done():
            for need in run.needs():
                is_as_the_study_says(need)
                if not need.is_done():
                    want(need)

    for run in study.runs():
        if not all(is_measured(run, test, kept) for test in run.tests()):
            want(run)
    return [run for run in study.runs() if run.name in wanted]


def _work(jobs: list[Run], workers: int, is_late: Callable[[], bool], config: str) -> list[str]:
    """Run what can be run, in order, some at once; `jobs` keeps what was not begun. Returns the failed ones with their
    logs."""
    running: dict[subprocess.Popen, Run] = {}
    failed: dict[str, str] = {}
    bar = tqdm(total=len(jobs), desc="runs", unit="run", disable=None)
    try:
        while jobs or running:
            ready = [job for job in jobs if job.is_done() or all(need.is_done() for need in job.needs())]
            while ready and len(running) < workers and not is_late():
                job = ready.pop(0)
                jobs.remove(job)
                running[_start(job, config)] = job
            if not running:
                break
            time.sleep(_POLL)
            for process in [process for process in running if process.poll() is not None]:
                job = running.pop(process)
                bar.update()
                if process.returncode:
                    failed[job.name] = f"{job.name}, see {_log(job)}"
                    continue
                try:
                    write_results(job.study, f"polyv ablate --config {config}")
                except (OSError, ValueError) as error:  # the other runs are worth more; the end will say it again
                    bar.write(f"{job.study.results}: not written, {error}")
    finally:
        for process in running:
            process.terminate()
        for process in running:
            process.wait()
        bar.close()
    return list(failed.values())


def _log(job: Run) -> Path:
    return job.beside("log")


def _start(job: Run, config: str) -> subprocess.Popen:
    log = _log(job)
    log.parent.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    # Else glibc gives the memory of each step back, page by page; see docs/bench.md.
    environment |= {"MALLOC_MMAP_THRESHOLD_": "4294967296", "MALLOC_TRIM_THRESHOLD_": "8589934592"}
    command = [sys.executable, "-m", "polyv.evaluation.ablate", config, job.name]
    with log.open("a") as file:
        return subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=environment)


def work_on(study: Study, name: str) -> None:
    """One run in this process: train, unless that is done; measure, where it is an arm. Where another process still works
    on it, as one that outlived its killed parent, this one waits."""
    job = next((run for run in study.runs() if run.name == name), None)
    if job is None:
        raise ValueError(f"{name}: the study's file has no such run any more.")
    with job.beside("lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        _work_on(study, job)


def _work_on(study: Study, job: Run) -> None:
    started = time.monotonic()
    if not is_as_the_study_says(job):
        write_whole(job.beside("recipe"), job.recipe())
    if not job.is_done():
        note_commit(job)
        try:
            _train(job)
        finally:
            _note_seconds(job, time.monotonic() - started)
    for test in job.tests():
        if test.report.is_file():
            check_report(job, test)
            continue
        if test.questions is None:
            world = Path(study.test["world"])
            seed, n = study.test["seed"], study.test["n"]
            evaluate(str(job.folder), "all", seed, n, test.report, world=world, answers=test.answers)
        else:
            measure(str(job.folder), test.questions, test.report, test.answers)


def _train(job: Run) -> None:
    stage = job.step["stage"]
    if stage in STAGES:
        recipe = job.beside("yaml")
        recipe.parent.mkdir(parents=True, exist_ok=True)
        write_whole(recipe, yaml.safe_dump(job.settings(), sort_keys=False))
        from importlib import import_module

        import_module(f"polyv.recipes.{stage}").main(["--config", str(recipe)])
    elif stage == "merge":
        from polyv.hub.upcycle import MODALITIES, upcycle_to_disk

        options = job.options()
        merge: dict[str, Any] = {name: options.pop(name) for name in MODALITIES if name in options}
        upcycle_to_disk(job.start(), job.folder, merge, seed=job.seed, **options)
    elif stage == "warm":
        from polyv.recipes.warm_routers import warm_routers

        warm_routers(job.start(), job.folder, seed=job.seed, **job.options())
    elif stage == "wide":
        from polyv.evaluation.widen import widen

        widen(job.start(), job.folder, seed=job.seed, **job.options())
    else:
        from polyv.recipes.controls import write_control

        write_control(out=job.folder, seed=job.seed, **job.options())


def _note_seconds(job: Run, seconds: float) -> None:
    """Add to what the run took, over all its interruptions but those by a kill."""
    file = job.beside("seconds")
    before = float(file.read_text()) if file.is_file() else 0.0
    write_whole(file, f"{before + seconds:.1f}\n")


def measure(model: str, questions: Path, out: Path, answers: Path, batch_size: int = 32) -> dict[str, Any]:
    """Ask a model all questions of a JSONL file (rows as in a world's questions.jsonl) and write its report and its
    answers, as `polyv evaluate` does for a world's."""
    rows = [json.loads(line) for line in questions.read_text(encoding="utf-8").splitlines()]
    rows = [{**row, "messages": locate_media(row["messages"], questions.parent)} for row in rows]
    loaded, processor = load(model)

    def ask(batch: list[dict]) -> list[str]:
        return answer(loaded, processor, [asked(row) for row in batch], max_new_tokens=16)

    request = make_request(model, loaded, sorted({row["suite"] for row in rows}), 0, len(rows), questions, rows)
    partial = out.with_name(out.name + ".partial.jsonl")
    given = ask_all(rows, batch_size, request, partial, ask)
    report = score(rows, [given[row["id"]] for row in rows]) | {"model": model, "questions": str(questions)}
    write_answers(answers, rows, given)
    write_whole(out, json.dumps(report, indent=2) + "\n")
    partial.unlink()
    return report


def main() -> None:
    """`python -m polyv.evaluation.ablate CONFIG NAME`: one run, for `run`."""
    import polyv

    polyv.register()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # else the time that it took so far is not written
    torch.set_num_threads(1)
    work_on(Study.read(sys.argv[1]), sys.argv[2])


if __name__ == "__main__":
    main()


__all__ = ["measure", "run", "work_on"]
