# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""Scene graphs of 3DSSG (Wald et al., CVPR 2020), whose scenes are the scans of 3RScan.

The formats are those of github.com/3DSSG/3DSSG.github.io (README.md), and of `polyv.csqa.importers.rscan`:

    relationships.json    {"scans": [{"scan": id, "relationships": [[subject, object, number, predicate]]}]}
    objects.json          {"scans": [{"scan": id, "objects": [{"id": "1", "label", "attributes": {"color": ["red"]}, …}]}]}

Ids of objects are numbers in one file and text in the other: they become text.
"""

from collections.abc import Iterator, Set
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import BaseModel, TypeAdapter

from polyv.csqa.importers.annotations import Faults, check_ends, check_name, read_json, with_keys
from polyv.csqa.importers.rscan import Place, read_boxes, read_places, read_views
from polyv.csqa.records import SURROUNDINGS, Appearance, Media, Relation, SceneObject, SceneRecord


_WHAT = 'a file of 3DSSG: an object with the key "scans", a list'
_NUM_VIEWS = 8
# They depend on a viewpoint that nobody tells, or say nothing.
_VAGUE = ("none", "left", "right", "front", "behind", "in front of", "of the same as")
_WORDED = {"build in": "built into", "cover": "covering", "close by": "close to", "more closed": "more closed than"}
# All of these were annotated; of what is close, and of comparisons, some; and what stands on a thing is supported by it, too.
_CARRYING = {f"{how} {where}" for how in ("standing", "lying", "hanging") for where in ("on", "in")}
_CARRYING |= {"leaning against", "built into", "covering"}


class _Object(BaseModel):
    id: int | str
    label: str
    attributes: dict[str, list[str]] = {}


_RELATION = TypeAdapter(tuple[int | str, int | str, int, str])


def read_3dssg(folder: Path, media: Path | None, faults: Faults) -> Iterator[SceneRecord]:
    """An `Importer` of the folder of the three files; the media are the folders of the scans."""
    file = folder / "relationships.json"
    graphs, lists = (
        read_json(folder / name, _WHAT, with_keys(scans=list))["scans"] for name in (file.name, "objects.json")
    )
    nodes_of = {row["scan"]: row.get("objects", ()) for row in lists if isinstance(row, dict) and "scan" in row}
    places = read_places(folder / "3RScan.json", faults)
    for index, row in enumerate(graphs):
        with faults.leaving_out(file, f"scans[{index}]"):
            scan, left_out = check_name(row["scan"]), len(faults.found)
            for name, known in (("3RScan.json", places), ("objects.json", nodes_of)):
                if scan not in known:
                    raise ValueError(f"its scan {scan!r} is not in {name}, or stands there twice")
            nodes = nodes_of.pop(scan)
            objects = list(faults.read(folder / "objects.json", f"{scan}.objects", nodes, _Object.model_validate))
            reader = partial(_relation, ids={str(thing.id) for thing in objects})
            told = faults.read(file, f"scans[{index}].relationships", row["relationships"], reader)
            relations = [relation for relation in told if relation is not None]
            yield _record(scan, places[scan], objects, relations, len(faults.found) == left_out, media)


def _relation(row: Any, ids: Set[str]) -> Relation | None:
    subject, target, _, predicate = _RELATION.validate_python(row)
    check_ends(str(subject), str(target), ids)
    if predicate.startswith("same "):
        predicate = f"of the {predicate.removesuffix(' as')} as"
    words = _WORDED.get(predicate, predicate)
    return None if predicate in _VAGUE else Relation(subject=str(subject), predicate=words, object=str(target))


def _record(
    scan: str, place: Place, objects: list[_Object], told: list[Relation], complete: bool, media: Path | None
) -> SceneRecord:
    sequence = media / scan / "sequence" if media else None
    boxes = read_boxes(media / scan, place.motion) if media else {}
    cameras, looks = read_views(sequence, _NUM_VIEWS, place.motion) if sequence and sequence.is_dir() else ((), [])
    return SceneRecord(
        scene_id=scan,
        source="3dssg",
        split=place.split,
        media=Media(scene=f"{scan}/sequence", num_views=_NUM_VIEWS, alignment=place.motion.tolist(), shared=False),
        objects=tuple(
            SceneObject(
                id=id,
                category=thing.label,
                attributes=_attributes(thing.attributes),
                fixture=thing.label in SURROUNDINGS,
                **boxes.get(id, {}),
                in_views=tuple(look.get(id, Appearance()) for look in looks),
            )
            for thing in objects
            for id in [str(thing.id)]
        ),
        relations=tuple(told),
        view_cameras=cameras,
        predicates=tuple(sorted({relation.predicate for relation in told} & _CARRYING)) if complete else (),
        provenance={"scan": scan, "reference": place.reference},
    )


def _attributes(told: dict[str, list[str]]) -> dict[str, str]:
    """Those of one value, and shades such as ["dark", "gray"]."""
    return {
        "colour" if name == "color" else name: " ".join(words)
        for name, words in told.items()
        if name != "lexical" and (len(words) == 1 or words[:1] in (["dark"], ["light"]))
    }
