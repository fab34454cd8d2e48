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

from polyv.csqa.importers.annotations import SPLIT_NAMES, Faults, check_ends, in_time, label_boxes, read_json
from polyv.csqa.records import Appearance, Camera, Media, Relation, SceneObject, SceneRecord


_WHAT = 'pvsg.json of PVSG: an object with the keys "data" and "split"'
# Where things are is annotated where it matters: that it is not told of some does not say that it is not so.
_PLACES = ("above", "behind", "below", "beside", "in front of", "near", "next to", "over", "under")


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
    content = read_json(file, _WHAT, lambda it: isinstance(it, dict) and it.keys() >= {"data", "split"})
    places = {
        video: (source, SPLIT_NAMES[name])
        for source, splits in content["split"].items()
        for name, videos in splits.items()
        for video in videos
    }
    for index, row in enumerate(content["data"]):
        with faults.leaving_out(file, f"data[{index}]"):
            video = _Video.model_validate(row)
            if video.video_id not in places:
                raise ValueError(f"its video {video.video_id!r} is in no split")
            source, split = places[video.video_id]
            told = faults.read(file, f"data[{index}].relations", video.relations, partial(_relations, video))
            relations = in_time(chain.from_iterable(told))
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
                predicates=tuple(sorted({relation.predicate for relation in relations}.difference(_PLACES))),
                provenance={"video": video.video_id, "row": index},
            )


def _object(thing: _Object, looks: tuple[Appearance, ...]) -> SceneObject:
    return SceneObject(id=str(thing.object_id), category=thing.category, fixture=not thing.is_thing, in_video=looks)


def _relations(video: _Video, row: Any) -> list[Relation]:
    subject, target, predicate, spans = _RELATION.validate_python(row)
    meta, ids = video.meta, {thing.object_id for thing in video.objects}
    check_ends(subject, target, ids)
    if bad := [span for span in spans if not 0 <= span[0] <= span[1]]:
        raise ValueError(f"{list(bad[0])} is no span of frames")
    ends = [None if last >= meta.num_frames - 1 else (last + 1) / meta.fps for _, last in spans]
    return [
        Relation(subject=str(subject), predicate=predicate, object=str(target), start=first / meta.fps, end=end)
        for (first, _), end in zip(spans, ends, strict=True)
    ]


def _looks(video: _Video, masks: Path) -> tuple[tuple[float, ...], dict[int, tuple[Appearance, ...]]]:
    """The times of two to three frames a second, as far as there are masks of them, and how each object shows there."""
    meta, last = video.meta, video.meta.num_frames - 1
    frames = dict.fromkeys([*range(0, last, max(int(meta.fps * 0.4), 1)), last])
    files = {frame: file for frame in frames if (file := masks / f"{frame:04d}.png").is_file()}
    ids = [thing.object_id for thing in video.objects]
    looks = [label_boxes(file, ids, (meta.height, meta.width)) for file in files.values()]
    return tuple(frame / meta.fps for frame in files), {id: tuple(look[id] for look in looks) for id in ids}
