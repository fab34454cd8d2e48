# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""What would stop a study after hours, found before it begins."""

import inspect
import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields
from importlib import import_module
from pathlib import Path
from typing import Any, get_args

from trl import SFTConfig

from polyv.configuration.configuration_polyv import PolyVConfig, PolyVTextConfig
from polyv.evaluation.evaluate import check_world
from polyv.evaluation.study import STAGES, Run, Study
from polyv.evaluation.widen import widen
from polyv.hub.adapters import check_whole
from polyv.hub.upcycle import MODALITIES, upcycle_to_disk
from polyv.recipes.controls import Control, write_control
from polyv.recipes.data import check_weights, is_jsonl
from polyv.recipes.stage import DataArguments, ModelArguments
from polyv.recipes.synergy import SynergyArguments
from polyv.recipes.targets import MANIFEST
from polyv.recipes.warm_routers import warm_routers


_GIVEN = {"model", "source", "base", "out", "seed", "merge", "overrides", "progress"}
"""What the study itself tells a tool."""


def check(study: Study, jobs: Sequence[Run]) -> None:
    """Look at all that `jobs`, the runs of a study that are still to be run, name.

    Raises:
        ValueError: a step names no step and no field of the case where it should, or its recipe has fields that its stage
            has not; a list of seeds or cases picks nothing; no step is an arm; the world is another than it says.
        FileNotFoundError: a recipe, a checkpoint to start from, a dataset, a cache, or what arms are asked is not there.
    """
    if not any(step.get("arm") for step in study.steps):
        raise ValueError("steps: none has `arm: true`, so that nothing would be measured.")
    _check_picks(study)
    for run in jobs:
        where = f"steps: {run.step['name']}"
        stage, start = run.step.get("stage"), run.step.get("from")
        if stage != "control":
            if start is None:
                raise ValueError(f"{where}: it has no `from`; expected another step, or a checkpoint to start from.")
            if not any(need.step["name"] == start for need in run.needs()):
                if "/" not in start and not (start and Path(start).is_dir()):
                    raise ValueError(f"{where}: from is {start}, which is neither a step nor a folder.")
                check_whole(f"{where}: from", str(run.start()))
        if stage in STAGES:
            _check_recipe(where, run)
        elif stage is not None:
            _check_tool(where, run)
        for test in run.tests():
            if test.questions is not None and not test.questions.is_file():
                raise FileNotFoundError(
                    f"test: questions={test.questions}: there is no such file; {where} is asked them."
                )
    if "world" in study.test and any(run.tests() for run in jobs):
        world = Path(study.test["world"])
        # `polyv evaluate` would make one, of test scenes: a study that searches on others must not be given these.
        if not check_world(world, study.test["seed"]):
            raise FileNotFoundError(
                f"test: world={world}: there is none. Make it first: polyv world make --scenes N --seed "
                f"{study.test['seed']} --split test --out {world}, or validation for a study that searches."
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
    datasets, weights = settings.get("dataset", []), settings.get("dataset_weights")
    datasets = [datasets] if isinstance(datasets, str) else datasets
    weights = [weights] if isinstance(weights, (int, float)) else weights
    _check_there(where, datasets, run)
    try:
        check_weights(datasets, weights)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    for name in ("temporal_targets", "spatial_targets"):
        if settings.get(name) and not Path(settings[name], MANIFEST).is_file():
            raise FileNotFoundError(
                f"{where}: {name}={settings[name]}: there is no cache; make it: polyv teachers cache."
            )
    for name in settings.keys() & {each.name for each in fields(SFTConfig) if each.type in (int, float)}:
        try:
            float(settings[name])
        except (TypeError, ValueError):
            raise ValueError(f"{where}: {name}={settings[name]!r}: expected a number.") from None


def _check_there(where: str, datasets: Sequence[Any], run: Run) -> None:
    made = {str(need.folder) for need in run.needs()}
    for source in map(str, datasets):
        on_the_hub = not is_jsonl(source) and "/" in source
        if source not in made and not Path(source).exists() and not on_the_hub:
            raise FileNotFoundError(f"{where}: dataset={source}: there is no such file or folder.")


def _check_tool(where: str, run: Run) -> None:
    options, stage = run.options(), run.step["stage"]
    _check_filled(where, options)
    tools: dict[str, Callable] = {
        "merge": upcycle_to_disk,
        "warm": warm_routers,
        "wide": widen,
        "control": write_control,
    }
    known: Iterable[str] = [name for name in inspect.signature(tools[stage]).parameters if name not in _GIVEN]
    if stage == "merge":
        known = [*MODALITIES, *known, *(each.name for kind in (PolyVConfig, PolyVTextConfig) for each in fields(kind))]
    if unknown := sorted(options.keys() - set(known)):
        shown = ", ".join([*known][:8])
        raise ValueError(f"{where}: set: {', '.join(unknown)}: {stage} has no such option; expected some of {shown}.")
    if stage == "control":
        if options.get("control") not in get_args(Control) or not isinstance(options.get("dataset"), str):
            raise ValueError(
                f"{where}: set: {options}; expected control (one of {', '.join(get_args(Control))}), dataset (a JSONL file) "
                "and, of a sample, share."
            )
        try:
            fits = 0 < float(options.get("share", 1.0)) <= 1
        except (TypeError, ValueError):
            fits = False
        if not fits:
            raise ValueError(f"{where}: set: share={options['share']!r}: expected a number above 0, at most 1.")
    if "dataset" in options:
        _check_there(where, [options["dataset"]], run)


def _check_filled(where: str, settings: dict[str, Any]) -> None:
    if left := re.search(r"{[\w-]+}", json.dumps(settings)):
        raise ValueError(f"{where}: {left[0]} names no step, and no field of its case.")


__all__ = ["check"]
