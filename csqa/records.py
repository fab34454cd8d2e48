# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""Scene graphs: what is in a scene, where, when, and how it shows in a picture, a video and posed views of it.

Units and axes everywhere: seconds, metres, pixels; OpenCV cameras (x right, y down, z forward) with camera-to-world
poses; the world's z axis points up. What an annotation does not tell is None or empty: it is never guessed.
"""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path, PureWindowsPath
from typing import Annotated, Literal, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    NonNegativeInt,
    PositiveInt,
    StringConstraints,
    ValidationError,
    field_validator,
    model_validator,
)

from polyv.files import whole


Vector = tuple[float, float, float]
Box = tuple[float, float, float, float]
Matrix = tuple[Box, ...]
Phrase = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)
SURROUNDINGS = ("floor", "ground", "wall", "ceiling")


class Record(BaseModel):
    """A part of a scene graph: it cannot be changed, and refuses fields that it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Camera(Record):
    """One pinhole camera. `pose` is camera-to-world, row-major 4×4; `intrinsics` is row-major 3×3 in pixels. None: not known."""

    pose: Matrix | None = None
    intrinsics: tuple[Vector, ...] | None = None
    width: int
    height: int


class Appearance(Record):
    """How an object shows in one picture.

    Attributes:
        box: x0, y0, x1, y1 as PIL crops, of its visible part; None where it is not seen.
        visible: its visible pixels as a fraction of its whole silhouette: what hides it and the picture's edge both lower
            it. None where that is not known.
    """

    box: Box | None = None
    visible: float | None = None


class SceneObject(Record):
    """One object.

    Attributes:
        id: of this scene's objects, once.
        category: such as "ball".
        attributes: such as {"colour": "red"}.
        fixture: part of the room, or a piece of furniture that others rest on, rather than a thing to compare or to follow.
        position: its centre at the start, in the world.
        extent: its full size along the world's axes at the start.
        track: its centre at each of the record's `times`.
        in_image: how it shows in the image.
        in_video: how it shows at each of the record's `times`; None where nobody looked.
        in_views: how it shows in each posed view.
        doubtful: predicates of which a viewer of the media may think otherwise than the relations say: a hit too faint to see,
            a near miss that looks like one. Nothing is asked about these.
    """

    id: str
    category: Phrase
    attributes: dict[str, str] = {}
    fixture: bool = False
    position: Vector | None = None
    extent: Vector | None = None
    track: tuple[Vector, ...] = ()
    in_image: Appearance | None = None
    in_video: tuple[Appearance | None, ...] = ()
    in_views: tuple[Appearance, ...] = ()
    doubtful: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """How questions call it: its colour, if that is known, and its category, as in "red ball"."""
        return " ".join(filter(None, (self.attributes.get("colour"), self.category)))


class Relation(Record):
    """`subject` `predicate` `object`: throughout, or from `start` to `end` seconds of the video, or as seen in one view.

    Attributes:
        subject: id of an object.
        predicate: such as "on", "hits", "holding". Questions say "is" before it, but of the world's own ("hits", "moves",
            "falls_from", "rolls_down").
        object: id of an object, or a word for what is none ("floor"); None where the predicate takes none ("moves").
        start: seconds; None where it holds from the start, or from when on is not known.
        not_before: seconds, up to which it surely did not hold, where only some frames were annotated. None: up to `start`.
        end: seconds; None where it holds to the end.
        view: index of the posed view that it holds in; None where the viewpoint is of no matter.
    """

    subject: str
    predicate: Phrase
    object: str | None = None
    start: float | None = None
    end: float | None = None
    view: NonNegativeInt | None = None
    not_before: float | None = None


class Media(Record):
    """Where the content lies as files, relative to the folder of the records.

    Attributes:
        image: a picture, or the video or the folder of views that it is taken from.
        video: a video file.
        scene: posed RGB-D views, as `PosedViews.load` reads them.
        image_frame: which frame of the video the image is, if it is one. Where `image` names the video, it is taken from there.
        image_view: which of the views the image is, if it is one. Where `image` names the scene, it is taken from there.
        num_views: so many of the scene's views, spread evenly, are meant (see `PosedViews.load`); None: all.
        alignment: rigid motion (4×4) from the world of the scene's files to the record's; None: they are the same.
        shared: whether a dataset may hold the files; False for those of third parties, which it only names.
    """

    image: str | None = None
    video: str | None = None
    scene: str | None = None
    image_frame: NonNegativeInt | None = None
    image_view: NonNegativeInt | None = None
    num_views: PositiveInt | None = None
    alignment: Matrix | None = None
    shared: bool = True

    @field_validator("image", "video", "scene")
    @classmethod
    def _stays_inside(cls, path: str | None) -> str | None:
        parts = PureWindowsPath(path or "")  # it splits at both kinds of slash
        if parts.root or parts.drive or ".." in parts.parts:
            raise ValueError("the path leads out of the folder of the records")
        return path


class SceneRecord(Record):
    """One scene graph of the same content as an image, a video and posed views, or as some of these.

    Attributes:
        scene_id: unique within its source.
        source: where the graph comes from: "world", "pvsg", "action_genome", "3dssg", or a name of yours.
        split: scenes of different splits have nothing in common.
        media: the files; those that are not there cannot be asked about.
        objects: all that are annotated.
        relations: between them.
        fps: frames a second of the video.
        duration: seconds of the video; None: up to the last frame that anything is told of.
        times: seconds of the frames that `track` and `in_video` tell of; None: of every frame, from 0.
        image_camera: of the image.
        video_cameras: of the frames of `times`; one where the camera stands still.
        view_cameras: of the posed views.
        predicates: all of which every instance was annotated: what relations do not tell of these did not happen. None: those
            in `relations`.
        surroundings: what relations may name as objects without its being one.
        foreseeable: predicates of which the image tells whether they will happen in the video, as with a ball on a ramp.
        provenance: whatever leads back to the annotation, such as a seed or a row.
    """

    scene_id: str
    source: str
    split: Split
    media: Media
    objects: tuple[SceneObject, ...]
    relations: tuple[Relation, ...] = ()
    fps: float | None = None
    duration: float | None = None
    times: tuple[float, ...] | None = None
    image_camera: Camera | None = None
    video_cameras: tuple[Camera, ...] = ()
    view_cameras: tuple[Camera, ...] = ()
    predicates: tuple[str, ...] | None = None
    surroundings: tuple[str, ...] = SURROUNDINGS
    foreseeable: tuple[str, ...] = ()
    provenance: dict[str, str | int | float] = {}

    @model_validator(mode="after")
    def _fits_together(self):
        ids = [thing.id for thing in self.objects]
        if doubles := sorted({id for id in ids if ids.count(id) > 1}):
            raise ValueError(f"objects: the ids {', '.join(doubles)} stand more than once.")
        for index, relation in enumerate(self.relations):
            if relation.subject not in ids:
                raise ValueError(f"relations[{index}]: its subject {relation.subject!r} is the id of no object.")
            if relation.object not in (None, *ids, *self.surroundings):
                raise ValueError(
                    f"relations[{index}]: its object {relation.object!r} is the id of no object, nor among `surroundings`."
                )
        for name, wanted in (("track", self._num_times), ("in_video", self._num_times), ("in_views", None)):
            lengths = {len(value) for thing in self.objects if (value := getattr(thing, name))}
            cameras = self.view_cameras if name == "in_views" else self.video_cameras if name == "in_video" else ()
            if lengths and len(cameras) > 1:
                lengths.add(len(cameras))
            if wanted is not None:
                lengths.add(wanted)
            if len(lengths) > 1:
                raise ValueError(
                    f"objects: {name} has {' and '.join(map(str, sorted(lengths)))} entries; expected one count, as many as times and cameras."
                )
        return self

    def tells_of(self, predicate: str) -> bool:
        """Whether relations of a predicate were annotated, so that there are none but those told."""
        told = {relation.predicate for relation in self.relations} if self.predicates is None else self.predicates
        return predicate in told

    @property
    def _num_times(self) -> int | None:
        return None if self.times is None else len(self.times)

    def seconds(self, index: int) -> float:
        """When entry `index` of `track` and `in_video` is.

        Raises:
            ValueError: neither `times` nor `fps` is known.
        """
        if self.times is not None:
            return self.times[index]
        if self.fps is None:
            raise ValueError(f"scene {self.scene_id}: neither `times` nor `fps` is told, so frames have no time.")
        return index / self.fps


def read_records(path: str | Path) -> Iterator[SceneRecord]:
    """The records of a JSON Lines file, one by one.

    Raises:
        FileNotFoundError: it is not there.
        ValueError: a line is no record; the message names file, line and field.
    """
    with Path(path).open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                yield SceneRecord.model_validate_json(line)
            except ValidationError as error:
                raise ValueError(f"{path}, line {number}: {first_fault(error)}") from error


def write_records(path: str | Path, records: Iterable[SceneRecord]) -> int:
    """Write a JSON Lines file, whole or not at all; returns how many records."""
    count = 0
    with whole(path) as partial, partial.open("w", encoding="utf-8") as lines:
        for record in records:
            lines.write(record.model_dump_json(exclude_defaults=True) + "\n")
            count += 1
    return count


def first_fault(error: ValidationError) -> str:
    """The first thing that is wrong, in one line: where, what was expected, and what came."""
    fault = error.errors()[0]
    where = ".".join(map(str, fault["loc"])) or "the record"
    others = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return f"{where}: {fault['msg']}, got {fault['input']!r:.80}{others}"


__all__ = [
    "SPLITS",
    "SURROUNDINGS",
    "Appearance",
    "Box",
    "Camera",
    "Media",
    "Relation",
    "SceneObject",
    "SceneRecord",
    "Split",
    "Vector",
    "read_records",
    "write_records",
]


if __name__ == "__main__":
    print(json.dumps(SceneRecord.model_json_schema(), indent=1))
