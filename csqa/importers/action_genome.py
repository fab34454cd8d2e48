# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""Scene graphs of Action Genome 1.0 (Ji et al., CVPR 2020), whose videos are those of Charades.

The format is that of github.com/JingweiJ/ActionGenome (README.md; tools/load_annotations.py, dump_frames.py; issues 2, 5, 6, 7):

    annotations/object_bbox_and_relationship.pkl   {"VIDEO.mp4/000089.png": [of each class of objects: class; bbox (x, y, w, h) or
        None; visible; attention_, spatial_, contacting_relationship: lists, or None where it is not visible; metadata: tag, set]}
    annotations/person_bbox.pkl   {the same keys: of a detector, bbox, float32 [n, 4] (x0, y0, x1, y1); bbox_score [n]; bbox_size (w, h)}
    videos/VIDEO.mp4: frame 000001 is its first one, at its own rate ("not always 24")
Persons look at objects and touch them; where objects are is told with regard to the person. Five frames of each action were
annotated, with the objects of that action: when something begins is known from the frame before that did not tell of it.
"""

from collections.abc import Iterator
from itertools import chain, product
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field

from polyv.csqa.importers.annotations import SPLIT_NAMES, Faults, check_name, in_time, read_pickle, runs, video_clock
from polyv.csqa.records import Appearance, Box, Camera, Media, Relation, SceneObject, SceneRecord


_WHAT = "an annotation of Action Genome: a dictionary of VIDEO.mp4/FRAME.png"
_FILES = ("object_bbox_and_relationship.pkl", "person_bbox.pkl")
_PERSON = "person"
# They say what is not so, or, "in", not who is in whom; the last does not read after "is".
_VAGUE = {"not_looking_at", "not_contacting", "other_relationship", "in", "have_it_on_the_back"}


class _Entry(BaseModel):
    name: str = Field(alias="class")
    bbox: Box | None
    visible: bool
    attention_relationship: list[str] | None
    spatial_relationship: list[str] | None
    contacting_relationship: list[str] | None
    metadata: dict[str, str]


def read_action_genome(folder: Path, media: Path | None, faults: Faults) -> Iterator[SceneRecord]:
    """An `Importer` of the folder "annotations". The media, in the folder "videos" (None: beside it), tell how many frames a
    second has, without which nothing has a time."""
    file = folder / _FILES[0]
    told, persons = (read_pickle(folder / name, _WHAT, _is_by_frame) for name in _FILES)
    frames: dict[str, dict[int, dict[str, _Entry]]] = {}
    for key, entries in told.items():
        with faults.leaving_out(file, repr(key)):
            video, number = check_name(key.split("/")[0]), int(Path(key).stem)
            for entry in faults.read(file, repr(key), entries, _Entry.model_validate):
                if frames.setdefault(video, {}).setdefault(number, {}).setdefault(entry.name, entry) is not entry:
                    faults.add(file, repr(key), f"{entry.name!r} stands twice in this frame")
    for video, by_number in sorted(frames.items()):
        with faults.leaving_out(file, f"{video!r}"):
            people = {number: persons.get(f"{video}/{number:06d}.png", {}) for number in by_number}
            yield _record(video, dict(sorted(by_number.items())), people, media or folder.parent)


def _is_by_frame(content: Any) -> bool:
    return isinstance(content, dict) and all(isinstance(key, str) and key.count("/") == 1 for key in content)


def _record(video: str, frames: dict[int, dict[str, _Entry]], people: dict[int, dict], media: Path) -> SceneRecord:
    sets = {entry.metadata["set"] for seen in frames.values() for entry in seen.values()}
    if len(sets) != 1 or not sets <= SPLIT_NAMES.keys():
        raise ValueError(f"its entries are of the sets {', '.join(sorted(sets))}, expected one of train and test")
    fps, duration = video_clock(media / "videos" / video)
    times = {number: (number - 1) / fps for number in frames}
    if not 0 <= min(times.values()) <= max(times.values()) <= duration:
        raise ValueError(f"its frames {min(frames)} to {max(frames)} are not in videos/{video}, of {duration:.1f} s")
    sizes = [person["bbox_size"] for person in people.values() if person]
    names = sorted({name for seen in frames.values() for name in seen})
    looks = {name: tuple(_look(seen.get(name)) for seen in frames.values()) for name in names}
    called = {name: " or ".join(name.replace("/", ", ").rsplit(", ", 1)) for name in names}  # "cup, glass or bottle"
    objects = [SceneObject(id=name, category=called[name], in_video=looks[name]) for name in names]
    person = SceneObject(id=_PERSON, category=_PERSON, in_video=tuple(map(_person, people.values())))
    return SceneRecord(
        scene_id=video.removesuffix(".mp4"),
        source="action_genome",
        split=SPLIT_NAMES[sets.pop()],
        media=Media(video=f"videos/{video}", shared=False),
        objects=(person, *objects),
        relations=in_time(_relations(frames, names, times)),
        fps=fps,
        duration=duration,
        times=tuple(times.values()),
        video_cameras=(Camera(width=sizes[0][0], height=sizes[0][1]),) if sizes else (),
        predicates=(),
        provenance={"video": video},
    )


def _relations(frames: dict[int, dict[str, _Entry]], names: list[str], times: dict[int, float]) -> Iterator[Relation]:
    """Of each object and word, from the first to the last of the frames in a row that tell of the object, and that word of it."""
    for name, kind in product(names, ("attention", "spatial", "contacting")):
        subject, target = (name, _PERSON) if kind == "spatial" else (_PERSON, name)
        seen = {
            number: getattr(there[name], f"{kind}_relationship") for number, there in frames.items() if name in there
        }
        told = {number: words for number, words in seen.items() if words and "unsure" not in words}
        before = dict(zip(told, [None, *map(times.__getitem__, told)], strict=False))
        for word in sorted(set(chain.from_iterable(told.values())) - _VAGUE):
            for first, last in runs({number: word in words for number, words in told.items()}):
                start, called = None if before[first] is None else times[first], word.replace("_", " ")
                span = Relation(subject=subject, predicate=called, object=target, start=start, end=times[last])
                yield span.model_copy(update={"not_before": before[first]})


def _look(entry: _Entry | None) -> Appearance | None:
    if entry is None:
        return None
    x, y, w, h = entry.bbox or (0, 0, 0, 0)
    return Appearance(box=(x, y, x + w, y + h) if entry.visible and entry.bbox else None)


def _person(found: dict) -> Appearance | None:
    """The surest box of the detector; where it has none, nobody knows."""
    boxes = found.get("bbox", ())
    return Appearance(box=boxes[int(found["bbox_score"].argmax())].tolist()) if len(boxes) else None
