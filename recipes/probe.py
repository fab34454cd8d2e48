# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""`polyv teachers probe`: what a teacher's features tell of motion and depth, read off by linear probes.

What a student is to foresee should first be known to its teacher. Each probe is a ridge regression from the features,
pooled as they would be distilled, to a number or a yes-or-no of the scene's record, fitted on one world and measured on
another. Beside the teacher stand a network of its shape that was never trained, and the mean colours of 4×4 fields of
each frame or view: whatever these know, too, is no merit of the teacher.
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from polyv.csqa.sight import in_camera
from polyv.files import write_whole
from polyv.processing.posed_views import PosedViews
from polyv.processing.view_sampling import Sampling, read_video
from polyv.recipes.targets import pool
from polyv.recipes.teachers import Teacher, load_teacher, read_views
from polyv.world.make import iter_records
from polyv.world.records import WorldRecord


REGIONS = {"pooled": (1, 1, 1), "2x2x2 regions": (2, 2, 2)}
PENALTIES = 10.0 ** np.arange(-2, 6)
HELD_OUT = 0.2  # of the training scenes, to choose the penalty by


def motion(record: WorldRecord) -> dict[str, float] | None:
    """What a clip before a standing camera shows: yes-or-no as 0 or 1, metres as the camera sees them. None of a
    fly-through, in which all moves; NaN where the layout decides: nothing falls where there is no table, and a table
    shows in any picture."""
    if record.layout == "static":
        return None
    done = {relation.predicate for relation in record.relations}
    moves = [
        np.diff(in_camera(np.asarray(thing.track)[[0, -1]], record.video_cameras[0]), axis=0)[0]
        for thing in record.objects
        if thing.track
    ]
    most = max(moves, key=lambda moved: float(np.linalg.norm(moved)))
    return {
        "falls?": float("falls_from" in done) if record.layout == "edge" else math.nan,
        "rolls down?": float("rolls_down" in done) if record.layout == "ramp" else math.nan,
        "hits?": float("hits" in done) if record.layout in ("rolling", "collision", "ramp") else math.nan,
        "metres across": float(most[0]),
        "metres away": float(most[2]),
        "metres in all": float(np.linalg.norm(most)),
    }


def geometry(record: WorldRecord, world: Path) -> dict[str, float]:
    """What a scene's views show: depth, and how objects and cameras stand in space; metres."""
    views = PosedViews.load(world / record.media.scene)
    places = np.array([thing.position for thing in record.objects])
    cameras = views.poses[:, :3, 3]
    return {
        "mean depth": float(np.nanmean(views.depths)),
        "spread of depth": float(np.nanstd(views.depths)),
        "spread of objects": float(np.linalg.norm(places - places.mean(0), axis=1).mean()),
        "nearest object": float(np.linalg.norm(places[:, None] - cameras, axis=-1).min()),
        "spread of cameras": float(np.linalg.norm(cameras - cameras.mean(0), axis=1).mean()),
    }


def mean_colours(teacher: Teacher, medium: Any) -> torch.Tensor:
    """Mean colours of 4×4 fields of 4 moments or views: [1, 1, 1, 4·4·4·3]."""
    if teacher.modality == "video":
        frames, _ = read_video(medium, Sampling(min_frames=4, max_frames=4, multiple=1))
        pictures = torch.from_numpy(frames).movedim(-1, 1).float() / 255
    else:
        pictures = read_views(medium, 4)
    return nn.functional.adaptive_avg_pool2d(pictures, 4).flatten()[None, None, None]


def fit_ridge(features: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, float]:
    """Weights [D] and offset of a ridge regression, its penalty chosen on held-out rows. Features are standardised by
    the caller."""
    held = max(int(len(features) * HELD_OUT), 1)
    known, left = slice(held, None), slice(0, held)
    mean = target[known].mean()
    errors = [
        np.square(features[left] @ _solve(features[known], target[known] - mean, penalty) + mean - target[left]).mean()
        for penalty in PENALTIES
    ]
    best = PENALTIES[int(np.argmin(errors))]
    return _solve(features, target - target.mean(), best), float(target.mean())


def _solve(features: np.ndarray, target: np.ndarray, penalty: float) -> np.ndarray:
    gram = features.T @ features + penalty * np.eye(features.shape[1])
    return np.linalg.solve(gram, features.T @ target)


def explained(told: np.ndarray, truth: np.ndarray) -> float:
    """R²: the share of the variance that is told; 0 for who always says the mean, below where it is worse."""
    return float(1 - np.square(told - truth).sum() / np.square(truth - truth.mean()).sum())


def ranked(told: np.ndarray, truth: np.ndarray) -> float | None:
    """AUC: how often a yes is ranked above a no; 0.5 for who knows nothing, None where there is only one of them."""
    yes, no = told[truth > 0.5], told[truth <= 0.5]
    if not len(yes) or not len(no):
        return None
    return float((np.sign(yes[:, None] - no[None]).mean() + 1) / 2)


def probe(
    train: tuple[np.ndarray, dict[str, np.ndarray]], test: tuple[np.ndarray, dict[str, np.ndarray]]
) -> dict[str, float | None]:
    """Of each target, AUC where it is yes-or-no (its name ends with "?"), else R², on the test rows; None where none of
    them, or of those it is fitted on, can tell."""
    mean, deviation = train[0].mean(0), train[0].std(0) + 1e-6
    fitted, measured = ((features - mean) / deviation for features in (train[0], test[0]))
    scores: dict[str, float | None] = {}
    for name in test[1]:
        known, asked = (~np.isnan(targets[name]) for targets in (train[1], test[1]))
        if known.sum() < 2 or not asked.any():
            scores[name] = None
            continue
        weights, offset = fit_ridge(fitted[known], train[1][name][known])
        told, truth = measured[asked] @ weights + offset, test[1][name][asked]
        scores[name] = ranked(told, truth) if name.endswith("?") else explained(told, truth)
    return scores


def run(
    teacher: str,
    train: Path,
    test: Path,
    out: Path,
    seed: int = 0,
    scenes: int = 1500,
    settings: Mapping[str, Any] | None = None,
) -> dict:
    """Probe `teacher` and what stands beside it, print a table and write it to `out` as JSON.

    Args:
        teacher: folder or Hub name, see `load_teacher`.
        train: world to fit on.
        test: world to measure on, of another split.
        out: file to write.
        seed: of the untrained network.
        scenes: at most so many of `train`.
        settings: of the teacher, see `load_teacher`.

    Raises:
        ValueError: both worlds are of one split, or the teacher is ground truth.
    """
    if teacher.startswith("world:"):
        raise ValueError(f"teacher={teacher}: it is the truth that probes are measured by.")
    kinds = [json.loads((world / "manifest.json").read_text())["split"] for world in (train, test)]
    if kinds[0] == kinds[1]:
        raise ValueError(
            f"test={test}: it is of the {kinds[1]} split like train={train}; give a world of another split."
        )
    settings = dict(settings or {})
    loaded = load_teacher(teacher, **settings)
    networks = {"teacher": loaded, "untrained": _untrained(load_teacher(teacher, **settings), seed)}
    data = [_collect(networks, world, limit) for world, limit in ((train, scenes), (test, None))]
    scores = {name: probe((data[0][0][name], data[0][1]), (data[1][0][name], data[1][1])) for name in data[0][0]}
    report = {
        "teacher": teacher,
        **settings,
        "modality": loaded.modality,
        "n": {name: int((~np.isnan(values)).sum()) for name, values in data[1][1].items()},
        "metrics": {name: "AUC" if name.endswith("?") else "R2" for name in data[1][1]},
        "seed": seed,
        "scores": scores,
    }
    print(table(report))
    write_whole(out, json.dumps(report, indent=2) + "\n")
    return report


def table(report: dict) -> str:
    """The scores as Markdown: a row a target, a column a source of features."""
    columns = list(report["scores"])
    lines = [f"| {' | '.join(['target', 'n', 'metric', *columns])} |", "|" + "---|" * (3 + len(columns))]
    for name, metric in report["metrics"].items():
        scores = [report["scores"][column][name] for column in columns]
        cells = ["" if score is None else f"{score:.2f}" for score in scores]
        lines.append(f"| {' | '.join([name, str(report['n'][name]), metric.replace('2', '²'), *cells])} |")
    return "\n".join(lines)


def _untrained(teacher: Teacher, seed: int) -> Teacher:
    """The teacher, with fresh weights."""
    model = next(part for part in vars(teacher).values() if isinstance(part, nn.Module))
    torch.manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                nn.init.normal_(weight, std=weight[0].numel() ** -0.5)
            else:
                weight.fill_(1.0 if weight.mean() > 0.5 else 0.0)  # of norms, and of biases
    return teacher


def _collect(
    networks: dict[str, Teacher], world: Path, limit: int | None
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Features of all sources [n, D], and targets [n], of a world's scenes."""
    teacher = networks["teacher"]
    features: dict[str, list[np.ndarray]] = {}
    targets: dict[str, list[float]] = {}
    count = len(list((world / "scenes").iterdir()))
    for index, record in enumerate(tqdm(iter_records(world), desc=f"probing {world}", total=count, disable=None)):
        if index == limit:
            break
        truth = motion(record) if teacher.modality == "video" else geometry(record, world)
        if truth is None:
            continue
        medium = world / (record.media.video if teacher.modality == "video" else record.media.scene)
        for name, vector in _see(networks, medium).items():
            features.setdefault(name, []).append(vector)
        for name, value in truth.items():
            targets.setdefault(name, []).append(value)
    if not targets:
        raise ValueError(f"{world}: none of its scenes shows what is probed.")
    return ({name: np.stack(rows) for name, rows in features.items()}, {k: np.array(v) for k, v in targets.items()})


def _see(networks: dict[str, Teacher], medium: Path) -> dict[str, np.ndarray]:
    seen: dict[str, np.ndarray] = {}
    for name, network in networks.items():
        grid = network(medium)
        for label, regions in _fitting(grid.shape[:3]).items():
            seen[f"{name}, {label}"] = pool(grid, regions).flatten().double().numpy()
    seen["mean colours"] = mean_colours(networks["teacher"], medium).flatten().double().numpy()
    return seen


def _fitting(grid: Sequence[int]) -> dict[str, tuple[int, int, int]]:
    return {
        label: regions for label, regions in REGIONS.items() if all(r <= g for r, g in zip(regions, grid, strict=True))
    }


__all__ = ["run", "table"]
