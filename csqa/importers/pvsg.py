# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""Scene graphs of PVSG (Yang et al., "Panoptic Video Scene Graph Generation", CVPR 2023).

The format is that of github.com/LilyDaytoy/OpenPVSG (README.md; datasets/datasets/pvsg_relation.py, pvsg_video.py, utils.py):

    pvsg.json   {"data": […], "objects": {"thing": […], "stuff": […]}, "relations": […],
                 "split": {"vidor" | "epic_kitchen" | "ego4d": {"train": [id], "val": [id]}}}
    data[i]     video_id; meta: height, width, num_frames, fps; objects: object_id, category, is_thing, status;
                relations: [subject, object, predicate, [[first frame, last frame], …]]
    SOURCE/videos/ID.mp4, and SOURCE/masks/ID/0000.png of each of its frames: a pixel is the object_id of what it shows

Its predicates are more than "relations" lists, and may relate what is out of the picture (issue 11 there): both are kept.
"""

from collections.abc import Iterator
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from pydantic import BaseModel, PositiveFloat, PositiveInt, TypeAdapter

from polyv.csqa.importers import annotations as read
from polyv.csqa.importers.annotations import SPLIT_NAMES, Faults, check_name, in_time
from polyv.csqa.importers.predicates import told_throughout
from polyv.csqa.records import Appearance, Camera, Media, Relation, SceneObject, SceneRecord


_WHAT = 'pvsg.json of PVSG: an object with the keys "data" and "split"'


class _Meta(BaseModel):
    height: PositiveInt
    width: PositiveInt
    num_frames: PositiveInt
    fps: PositiveFloat


class _Object(BaseModel):
    object_id: int
    category: str
    is_thing: bool


class _Video(BaseModel):
    video_id: str
    meta: _Meta
    objects: list[_Object]
    relations: list[Any]


_RELATION = TypeAdapter(tuple[int, int, str, list[tuple[int, int]]])


def read_pvsg(file: Path, media: Path | None, faults: Faults) -> Iterator[SceneRecord]:
    """An `Importer` of pvsg.json; the media are in the folders SOURCE/videos and SOURCE/masks."""
    content = read.read_json(file, _WHAT, read.with_keys(data=list, split=dict))
    places = {}
    for source, splits in content["split"].items():
        for name, videos in splits.items():
            places.update(dict.fromkeys(videos, (check_name(source), SPLIT_NAMES[name])))
    for index, row in enumerate(content["data"]):
        with faults.leaving_out(file, f"data[{index}]"):
            video = _Video.model_validate(row)
            if video.video_id not in places:
                raise ValueError(f"its video {video.video_id!r} is in no split")
            source, split = places[check_name(video.video_id)]
            left_out = len(faults.found)
            told = faults.read(file, f"data[{index}].relations", video.relations, partial(_relations, video))
            relations = in_time(chain.from_iterable(told))
            predicates = told_throughout(relations) if len(faults.found) == left_out else ()
            times, looks = _looks(video, media / source / "masks" / video.video_id) if media else ((), {})
            yield SceneRecord(
                scene_id=f"{source}-{video.video_id}",
                source="pvsg",
                split=split,
                media=Media(video=f"{source}/videos/{video.video_id}.mp4", shared=False),
                objects=tuple(_object(thing, looks.get(thing.object_id, ())) for thing in video.objects),
                relations=relations,
                fps=video.meta.fps,
                duration=video.meta.num_frames / video.meta.fps,
                times=times or None,
                video_cameras=(Camera(width=video.meta.width, height=video.meta.height),) if times else (),
                predicates=predicates,
                provenance={"video": video.video_id, "row": index},
            )


def _object(thing: _Object, looks: tuple[Appearance, ...]) -> SceneObject:
    return SceneObject(id=str(thing.object_id), category=thing.category, fixture=not thing.is_thing, in_video=looks)


def _relations(video: _Video, row: Any) -> list[Relation]:
    subject, target, predicate, spans = _RELATION.validate_python(row)
    meta, ids = video.meta, {thing.object_id for thing in video.objects}
    read.check_ends(subject, target, ids)
    if bad := [span for span in spans or [(-1, -1)] if not 0 <= span[0] <= span[1] or span[0] >= meta.num_frames]:
        raise ValueError(f"{list(bad[0])} is no span of its {meta.num_frames} frames")
    words = partial(Relation, subject=str(subject), predicate=predicate, object=str(target))
    ends = {last: None if last >= meta.num_frames - 1 else (last + 1) / meta.fps for _, last in read.merged(spans)}
    return [words(start=first / meta.fps, end=ends[last]) for first, last in read.merged(spans)]


def _looks(video: _Video, masks: Path) -> tuple[tuple[float, ...], dict[int, tuple[Appearance, ...]]]:
    """The times of two to three frames a second, as far as there are masks of them, and how each object shows there."""
    meta, step = video.meta, max(int(video.meta.fps * 0.4), 1)
    known = {int(file.stem): file for file in masks.glob("*.png")}
    files = {frame: known[frame] for frame in sorted(known) if frame % step == 0 or frame == meta.num_frames - 1}
    ids = [thing.object_id for thing in video.objects]
    looks = [read.label_boxes(file, ids, (meta.height, meta.width)) for file in files.values()]
    return tuple(frame / meta.fps for frame in files), {id: tuple(look[id] for look in looks) for id in ids}
