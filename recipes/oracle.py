# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""Ground truth in a teacher's place: what a simulated scene's record says of motion or of geometry.

No network knows this much, and none is allowed to look: results with it are an upper bound, and are reported as one.

```bash
polyv teachers cache --teacher world:temporal --dataset data/train/contents.jsonl --out runs/oracle-temporal
```
"""

from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from polyv.csqa.sight import in_camera
from polyv.world.records import WorldObject, WorldRecord
from polyv.world.scenes import COLOURS, SHAPES


class OracleTeacher:
    """Of each colour of the world, in the order of `COLOURS`, what its first object in the record does or where it is.

    "temporal": whether it is there, moves, falls, rolls down; how far it gets across, up and away from the video's
    camera (metres); what colours it hits. "spatial": whether it is there, its position and extent in the world (metres),
    and its shape.

    Args:
        name: "world:temporal" or "world:spatial".

    Raises:
        ValueError: another name; or, when called, a medium that no world's record stands beside.
    """

    modality: Literal["video", "scene"]

    def __init__(self, name: str, device: Any = None):
        if name not in ("world:temporal", "world:spatial"):
            raise ValueError(f"teacher={name}: expected world:temporal or world:spatial.")
        self.name = self.fingerprint = name
        self.modality = "video" if name == "world:temporal" else "scene"
        self.describe = _motion if name == "world:temporal" else _geometry
        self.size = len(COLOURS) * (7 + len(COLOURS) if name == "world:temporal" else 7 + len(SHAPES))

    def __call__(self, medium: Any) -> torch.Tensor:
        """Features [1, 1, 1, size] of a video or a scene of the world."""
        path = Path(medium).parent / "record.json"
        if not path.is_file():
            raise ValueError(f"teacher={self.name}: {medium} has no record.json beside it; it is no world's medium.")
        record = _record(path)
        rows = []
        for colour in COLOURS:
            things = [thing for thing in record.objects if thing.attributes["colour"] == colour]
            rows.append(self.describe(record, things[0]) if things else [0.0] * (self.size // len(COLOURS)))
        return torch.tensor(rows, dtype=torch.float32).flatten()[None, None, None]


@lru_cache(maxsize=8)
def _record(path: Path) -> WorldRecord:
    return WorldRecord.model_validate_json(path.read_bytes())


def _motion(record: WorldRecord, thing: WorldObject) -> list[float]:
    its = [relation for relation in record.relations if relation.subject == thing.id]
    done = {relation.predicate for relation in its}
    hit = {relation.object for relation in its if relation.predicate == "hits"}
    hit_colours = {other.attributes["colour"] for other in record.objects if other.id in hit}
    seen = in_camera(np.asarray(thing.track), record.video_cameras[0])
    across, down, away = seen[-1] - seen[0]
    happens = [float(predicate in done) for predicate in ("moves", "falls_from", "rolls_down")]
    return [1.0, *happens, across, down, away, *(float(colour in hit_colours) for colour in COLOURS)]


def _geometry(record: WorldRecord, thing: WorldObject) -> list[float]:
    return [1.0, *thing.position, *thing.extent, *(float(thing.category == shape) for shape in SHAPES)]


__all__ = ["OracleTeacher"]
