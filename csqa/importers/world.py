# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""Scene graphs of the simulated world, as `polyv world make` writes them. Everything in them is exact."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from polyv.csqa.records import Media, Relation, SceneObject, SceneRecord
from polyv.csqa.sight import is_hidden
from polyv.world.make import iter_records
from polyv.world.records import WorldObject, WorldRecord
from polyv.world.scenes import INFERABLE_LAYOUTS
from polyv.world.sightings import Sight, is_furniture


FLOOR = "floor"
_EVENTS = ("falls_from", "rolls_down", "hits", "moves")
# Metres: what ends lower than this above its half height lies on the floor.
_ON_FLOOR = 0.03


def read_world(folder: str | Path) -> Iterator[SceneRecord]:
    """The records of a world's folder, in order, one by one.

    Raises:
        FileNotFoundError: there is no world.
    """
    return map(from_world, iter_records(folder))


def from_world(record: WorldRecord) -> SceneRecord:
    """What the world knows of a scene, with what a viewer of it may doubt, and where things lie in the end."""
    sight = Sight(record)
    relations = [relation for thing in record.objects for relation in _supports(sight, thing)]
    relations += [Relation(**dict(relation)) for relation in record.relations if relation.predicate != "on"]
    return SceneRecord(
        scene_id=f"{record.split}-{record.scene_id}",
        source="world",
        split=record.split,
        media=Media(
            image=record.media.image,
            video=record.media.video,
            scene=record.media.scene,
            image_frame=None if sight.flies else 0,
        ),
        objects=tuple(_object(sight, thing) for thing in record.objects),
        relations=tuple(sorted(relations, key=lambda relation: relation.start or 0.0)),
        fps=record.fps,
        image_camera=record.image_camera,
        video_cameras=record.video_cameras,
        view_cameras=record.view_cameras,
        predicates=("on", *_EVENTS),
        foreseeable=(*_EVENTS, "on") if record.layout in INFERABLE_LAYOUTS else (),
        provenance={"seed": record.seed, "index": int(record.scene_id), "layout": record.layout},
    )


def _object(sight: Sight, thing: WorldObject) -> SceneObject:
    known = {name: getattr(thing, name) for name in SceneObject.model_fields}
    doubtful = []
    if not is_furniture(thing) and (sight.hits_of(thing) is None or _is_lost_from_sight(sight, thing)):
        doubtful.append("hits")
    if sight.tips(thing):
        doubtful.append("falls_from")
    if _end(sight, thing) is None:
        doubtful.append("on")
    return SceneObject(**{**known, "doubtful": tuple(doubtful), "fixture": is_furniture(thing)})


def _is_lost_from_sight(sight: Sight, thing: WorldObject) -> bool:
    """Whether something hides it, or it leaves the picture, while things move: who knows what it hits then."""
    return not sight.flies and any(is_hidden(look) for look in thing.in_video)


def _supports(sight: Sight, thing: WorldObject) -> list[Relation]:
    """What a thing rests on at the start, and at the end if that is something else."""
    under = next((target for subject, target, _ in sight.related("on") if subject is thing), None)
    start = FLOOR if under is None else under.id
    end = _end(sight, thing)
    if end is None or end == start:
        return [Relation(subject=thing.id, predicate="on", object=start)]
    left = [r for r in sight.record.relations if r.subject == thing.id and r.predicate in ("falls_from", "rolls_down")]
    return [
        Relation(subject=thing.id, predicate="on", object=start, start=0.0, end=left[0].start),
        Relation(subject=thing.id, predicate="on", object=end, start=left[0].end),
    ]


def _end(sight: Sight, thing: WorldObject) -> str | None:
    """What a thing rests on at the end; None where the graph does not tell for sure."""
    under = next((target for subject, target, _ in sight.related("on") if subject is thing), None)
    left = any(subject is thing for name in ("falls_from", "rolls_down") for subject, _, _ in sight.related(name))
    if left:
        # Lying on its smallest side or standing on its largest one.
        height = float(np.asarray(thing.track)[-1, 2])
        return FLOOR if height < max(thing.extent) / 2 + _ON_FLOOR else None
    moved = {subject.id for subject, _, _ in sight.related("moves")}
    if under is None:
        return FLOOR
    return None if moved & {thing.id, under.id} or is_furniture(thing) else under.id


__all__ = ["FLOOR", "from_world", "read_world"]
