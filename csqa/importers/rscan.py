# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""The scans of 3RScan (Wald et al., ICCV 2019): which belong together, boxes of their objects, cameras of their views.

The formats are those of github.com/WaldJohannaU/3RScan (README.md, FAQ.md; c++/rio_lib/src/rio_lib/data.cc, rio.cc, sequence.cc):

    3RScan.json         [{"reference": id, "type": "train" | "validation" | "test", "scans": [{"reference": id of a rescan,
                         "transform": 16 numbers, column by column, from the rescan to the reference}]}]
    ID/semseg.v2.json   {"segGroups": [{"objectId", "label", "obb": {"centroid", "axesLengths", "normalizedAxes"}}]}, metres
    ID/sequence/        _info.txt, frame-N.color.jpg, .depth.pgm, .pose.txt; and of rio_renderer_render_all, .bb.txt (id x0 y0 x1 y1, of
                        the stored picture) and .visibility.txt (id, …; 4th: how much is inside the picture, 7th: not hidden)

FAQ.md says that transforms are in millimetres, its library adds them to metres: told apart by their median, above 30 or below.
"""

from pathlib import Path
from statistics import median
from typing import Any, Literal, NamedTuple

import numpy as np
from pydantic import BaseModel, Field

from polyv.csqa.importers.annotations import SPLIT_NAMES, Faults, read_json, with_keys
from polyv.csqa.records import Appearance, Camera, Split, Vector
from polyv.processing.scene_checks import check_pose
from polyv.processing.scene_files import rscan_files, turn_intrinsics, turn_pose
from polyv.processing.view_sampling import select_views


_WHAT = '3RScan.json of 3RScan: a list of objects with the key "reference"'
_LARGEST = 30.0


class _Rescan(BaseModel):
    reference: str
    transform: list[float] | None = Field(None, min_length=16, max_length=16)


class _Environment(BaseModel):
    reference: str
    type: Literal["train", "validation", "val", "test"]
    scans: list[_Rescan] = []


class _OrientedBox(BaseModel):
    centroid: Vector
    lengths: Vector = Field(alias="axesLengths")
    axes: list[float] = Field(alias="normalizedAxes", min_length=9, max_length=9)


class _Group(BaseModel):
    id: int | str = Field(alias="objectId")
    obb: _OrientedBox


class Place(NamedTuple):
    """Where a scan belongs: to which reference scan, of which split, and the rigid motion to it, metres, [4, 4]."""

    reference: str
    split: Split
    motion: np.ndarray


def read_places(file: Path, faults: Faults) -> dict[str, Place]:
    """The place of each scan of 3RScan.json. Rescans are of the split of their reference."""
    rows = read_json(file, _WHAT, lambda it: isinstance(it, list) and any(map(with_keys(reference=str), it)))
    environments = list(faults.read(file, "", rows, _Environment.model_validate))
    shifts = [max(map(abs, scan.transform[12:15])) for row in environments for scan in row.scans if scan.transform]
    unit = 0.001 if shifts and median(shifts) > _LARGEST else 1.0
    places = {row.reference: Place(row.reference, SPLIT_NAMES[row.type], np.eye(4)) for row in environments}
    for row in environments:
        for scan in row.scans:
            motion = np.eye(4) if scan.transform is None else np.reshape(scan.transform, (4, 4)).T
            motion[:3, 3] *= unit
            with faults.leaving_out(file, scan.reference):
                check_pose(motion, "its transform")
                if (shift := np.abs(motion[:3, 3]).max()) > _LARGEST:
                    raise ValueError(f"its transform shifts it by {shift:.0f} m")
                places[scan.reference] = Place(row.reference, SPLIT_NAMES[row.type], motion)
    return places


def read_boxes(folder: Path, motion: np.ndarray) -> dict[str, dict[str, Any]]:
    """`position` and `extent` of each object of a scan, metres, after `motion`."""
    content = read_json(folder / "semseg.v2.json", 'an object with the key "segGroups"', with_keys(segGroups=list))
    boxes = {}
    for group in map(_Group.model_validate, content["segGroups"]):
        axes = np.reshape(group.obb.axes, (3, 3)) @ motion[:3, :3].T
        centre = motion[:3, :3] @ group.obb.centroid + motion[:3, 3]
        extent = np.abs(axes).T @ group.obb.lengths
        boxes[str(group.id)] = {"position": centre.tolist(), "extent": extent.tolist()}
    return boxes


def read_views(folder: Path, count: int, motion: np.ndarray) -> tuple[tuple[Camera, ...], list[dict[str, Appearance]]]:
    """Cameras of `count` views, as `PosedViews.load` takes and turns them, and how objects show where that was rendered."""
    files = rscan_files(folder)
    poses = files.tracked()
    names = [list(poses)[index] for index in select_views(len(poses), count)]
    width, height = files.colour_size or (0, 0)
    intrinsics = turn_intrinsics(files.cameras["color"][1], height).tolist()
    turned = {name: (motion @ turn_pose(poses[name])).tolist() for name in names}
    cameras = tuple(Camera(pose=turned[name], intrinsics=intrinsics, width=height, height=width) for name in names)
    rendered = [(folder / f"{name}.bb.txt", folder / f"{name}.visibility.txt") for name in names]
    if not all(file.is_file() for both in rendered for file in both):
        return cameras, []
    return cameras, [_looks(*both, height) for both in rendered]


def _looks(boxes: Path, visibility: Path, height: int) -> dict[str, Appearance]:
    """Boxes are those of the stored picture, `height` pixels high: they are turned with it."""
    shares = {id: inside * shown for id, _, _, inside, _, _, shown in _numbers(visibility, 7)}
    turned = {id: (height - y1, x0, height - y0, x1) for id, x0, y0, x1, y1 in _numbers(boxes, 5)}
    return {str(int(id)): Appearance(box=box, visible=min(shares.get(id, 0.0), 1.0)) for id, box in turned.items()}


def _numbers(file: Path, count: int) -> list[list[float]]:
    rows = np.loadtxt(file, ndmin=2)
    if rows.size and rows.shape[1] != count:
        raise ValueError(f"{file.name}: its lines have {rows.shape[1]} numbers, expected {count}")
    return rows.tolist()
