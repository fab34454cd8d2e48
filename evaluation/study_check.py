# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""What would stop a study after hours, found before it begins."""

import json
import re
from collections.abc import Sequence
from dataclasses import fields
from importlib import import_module
from pathlib import Path
from typing import Any, get_args

from trl import SFTConfig

from polyv.evaluation.study import STAGES, Run, Study
from polyv.hub.adapters import check_whole
from polyv.recipes.controls import Control
from polyv.recipes.stage import DataArguments, ModelArguments
from polyv.recipes.synergy import SynergyArguments


def check(study: Study, jobs: Sequence[Run]) -> None:
    """Look at all that `jobs`, the runs of a study that are still to be run, name.

    Raises:
        ValueError: a step names no step and no field of the case where it should, or its recipe has fields that its stage
            has not; a list of seeds or cases picks nothing; no step is an arm.
        FileNotFoundError: a recipe, a checkpoint to start from or a file of questions is not there.
    """
    if not any(step.get("arm") for step in study.steps):
        raise ValueError("steps: none has `arm: true`, so that nothing would be measured.")
    _check_picks(study)
    for run in jobs:
        where = f"steps: {run.step['name']}"
        stage, start = run.step.get("stage"), run.step.get("from")
        if stage != "control":
            if not isinstance(start, str):
                raise ValueError(f"{where}: from is {start}; expected another step, or a checkpoint to start from.")
            if not any(need.step["name"] == start for need in run.needs()):
                if "/" not in start and not Path(start).is_dir():
                    raise ValueError(f"{where}: from is {start}, which is neither a step nor a folder.")
                check_whole(f"{where}: from", str(run.start()))
        if stage in STAGES:
            _check_recipe(where, run)
        if stage == "control":
            _check_control(where, run.options())
        _check_filled(where, run.options())
        for test in run.tests():
            if test.questions is not None and not test.questions.is_file():
                raise FileNotFoundError(
                    f"test: questions={test.questions}: there is no such file; {where} is asked them."
                )


def _check_picks(study: Study) -> None:
    """Every step must be of some seed and some case; a misspelt field would leave it out in silence."""
    names = {run.step["name"] for run in study.runs()}
    for step in study.steps:
        if step["name"] not in names:
            picks = {name: step[name] for name in ("seeds", "cases") if name in step}
            raise ValueError(f"steps: {step['name']} is of no seed or no case of the study: {picks}.")


def _check_recipe(where: str, run: Run) -> None:
    config = run.step.get("config")
    if not isinstance(config, str) or not Path(config).is_file():
        raise FileNotFoundError(f"{where}: config={config}: there is no such file; expected its stage's recipe.")
    settings = run.settings()
    stage = import_module(f"polyv.recipes.{run.step['stage']}")
    own = [kind for kind in vars(stage).values() if isinstance(kind, type) and issubclass(kind, ModelArguments)]
    known = {
        each.name
        for kind in (*own, ModelArguments, DataArguments, SynergyArguments, SFTConfig)
        for each in fields(kind)
    }
    if unknown := sorted(settings.keys() - known):
        raise ValueError(f"{where}: {', '.join(unknown)}: {run.step['stage']} has no such field.")
    _check_filled(where, settings)


def _check_control(where: str, options: dict[str, Any]) -> None:
    unknown = sorted(options.keys() - {"control", "dataset", "share"})
    if unknown or options.get("control") not in get_args(Control) or not isinstance(options.get("dataset"), str):
        raise ValueError(
            f"{where}: set: {options}; expected control (one of {', '.join(get_args(Control))}), dataset (a JSONL file) and, "
            "of a sample, share."
        )


def _check_filled(where: str, settings: dict[str, Any]) -> None:
    if left := re.search(r"{[\w-]+}", json.dumps(settings)):
        raise ValueError(f"{where}: {left[0]} names no step, and no field of its case.")


__all__ = ["check"]
