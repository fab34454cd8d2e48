# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""What a viewer of each medium can tell: which objects are seen well enough, and the geometry between them.

Questions are asked only where a careful viewer has no doubt. Three safeguards live here: an object is "clear" in a
picture only when most of it shows and it is not tiny, comparisons are answered only with a margin, never on a near
tie, and neither a hit too faint to see nor a pass that looks like one is asked about. Metres, seconds, pixels and degrees; axes as in `polyv.world.records`.
"""

from functools import cached_property

import numpy as np

from polyv.csqa.sight import CAMERA_MARGIN, MARGIN, is_clear, is_hidden
from polyv.world.events import CLEAR_PASS, changes_height, hit_shows, least_gap
from polyv.world.physics import FURNITURE
from polyv.world.records import WorldObject, WorldRecord


def is_furniture(thing: WorldObject) -> bool:
    """Whether it is a table or a ramp: they carry objects, and are no "objects" where a question says that word."""
    return thing.category in FURNITURE


class Sight:
    """One scene graph with what follows from it, computed once: who is clear where, and all distances.

    `partner` is the second scene where a question is about two videos.
    """

    def __init__(self, record: WorldRecord, partner: "Sight | None" = None):
        self.record = record
        self.partner = partner
        self.objects = record.objects
        self.solids = tuple(thing for thing in record.objects if not is_furniture(thing))
        self.furniture = tuple(thing for thing in record.objects if is_furniture(thing))
        self.by_id = {thing.id: thing for thing in record.objects}

    @cached_property
    def _index(self) -> dict[str, int]:
        return {thing.id: i for i, thing in enumerate(self.objects)}

    @cached_property
    def centres(self) -> np.ndarray:
        """Centres at time 0, [objects, 3]."""
        return np.array([thing.position for thing in self.objects], dtype=float).reshape(-1, 3)

    @cached_property
    def _distances(self) -> tuple[np.ndarray, np.ndarray]:
        """Between all pairs: from centre to centre, and between the two boxes (0 where they touch)."""
        offset = np.abs(self.centres[:, None] - self.centres[None])
        half = np.array([thing.extent for thing in self.objects], dtype=float).reshape(-1, 3) / 2
        gap = np.clip(offset - half[:, None] - half[None], 0, None)
        return np.linalg.norm(offset, axis=-1), np.linalg.norm(gap, axis=-1)

    def nearer(self, a: WorldObject, b: WorldObject, to: WorldObject) -> bool:
        """Whether `a` is nearer to `to` than `b` is, whichever way one measures: centres or surfaces."""
        centre, gap = self._distances
        i, j, k = (self._index[thing.id] for thing in (a, b, to))
        return bool(centre[i, k] * MARGIN <= centre[j, k] and gap[i, k] < gap[j, k])

    def nearer_to_point(self, a: WorldObject, b: WorldObject, point: np.ndarray) -> bool:
        """Whether `a` is nearer to a point (a camera's centre) than `b` is, centres and surfaces agreeing."""
        spans = []
        for thing in (a, b):
            offset = np.abs(np.asarray(thing.position) - point)
            gap = np.clip(offset - np.asarray(thing.extent) / 2, 0, None)
            spans.append((np.linalg.norm(offset), np.linalg.norm(gap)))
        return bool(spans[0][0] * CAMERA_MARGIN <= spans[1][0] and spans[0][1] < spans[1][1])

    @cached_property
    def in_image(self) -> list[WorldObject]:
        """Objects that are clear in the image."""
        return [thing for thing in self.objects if is_clear(thing.in_image, self.record.image_camera)]

    @cached_property
    def in_first_frame(self) -> list[WorldObject]:
        """Objects that are clear in the video's first frame."""
        return [thing for thing in self.objects if is_clear(thing.in_video[0], self.record.video_cameras[0])]

    @cached_property
    def in_video(self) -> list[WorldObject]:
        """Objects that are clear in at least two frames of the video."""
        cameras = self.record.video_cameras
        return [
            thing
            for thing in self.objects
            if sum(is_clear(s, c) for s, c in zip(thing.in_video, cameras, strict=True)) > 1
        ]

    @cached_property
    def in_scene(self) -> list[WorldObject]:
        """Objects that are clear in at least one posed view."""
        cameras = self.record.view_cameras
        return [
            thing
            for thing in self.objects
            if any(is_clear(s, c) for s, c in zip(thing.in_views, cameras, strict=True))
        ]

    @cached_property
    def flies(self) -> bool:
        """Whether the video is a fly-through: its camera moves."""
        return any(camera.pose != self.record.video_cameras[0].pose for camera in self.record.video_cameras[1:])

    def clear_in(self, medium: str) -> list[WorldObject]:
        """Objects, furniture left out, that are clear in "image", "video" or "scene"."""
        clear = {"image": self.in_image, "video": self.in_video, "scene": self.in_scene}[medium]
        return [thing for thing in clear if not is_furniture(thing)]

    def countable(self, medium: str) -> list[WorldObject] | None:
        """All objects, furniture left out, that show in "image", "video" or "scene"; None where one of them is
        neither clear nor wholly hidden."""
        clear = self.clear_in(medium)
        for thing in self.solids:
            looks = {"image": (thing.in_image,), "video": thing.in_video, "scene": thing.in_views}[medium]
            if thing not in clear and not all(is_hidden(look) for look in looks):
                return None
        return clear

    def related(self, predicate: str) -> list[tuple[WorldObject, WorldObject | None, float]]:
        """(subject, object, start seconds) of each relation of that name, in order of time; a relation that names
        something that is no object of the scene (the floor) has None there."""
        found = [
            (self.by_id[r.subject], self.by_id.get(r.object or ""), r.start or 0.0)
            for r in self.record.relations
            if r.predicate == predicate and r.subject in self.by_id
        ]
        return sorted(found, key=lambda item: item[2])

    def hits_of(self, mover: WorldObject) -> list[WorldObject] | None:
        """What an object hits, in order of time; None where a viewer may be in doubt: one of its hits, given or
        taken, does not show, or it passes or comes to rest so near to something else that it seems to hit it."""
        hits = [(a, b, start) for a, b, start in self.related("hits") if b is not None and mover in (a, b)]
        if not all(hit_shows(a, b, start, self.record.fps) for a, b, start in hits):
            return None
        met = {thing.id for a, b, _ in hits for thing in (a, b)} | {mover.id}
        for subject, under, _ in self.related("on"):
            if under is not None and mover in (subject, under):
                met |= {subject.id, under.id}
        others = (thing for thing in self.solids if thing.id not in met)
        if any(least_gap(mover, other, self.record.fps) < CLEAR_PASS for other in others):
            return None
        return [b for a, b, _ in hits if a is mover]

    @cached_property
    def collides(self) -> bool | None:
        """Whether the video shows a hit; None where a viewer may be in doubt."""
        if any(b is not None and hit_shows(a, b, start, self.record.fps) for a, b, start in self.related("hits")):
            return True
        return None if any(self.hits_of(mover) is None for mover, _, _ in self.related("moves")) else False

    def tips(self, thing: WorldObject) -> bool:
        """Whether it goes down, or up, in another way than off something or down a ramp: who is struck may topple
        where it stands, which some call a fall."""
        known = any(thing is a for predicate in ("falls_from", "rolls_down") for a, _, _ in self.related(predicate))
        return not known and changes_height(thing)

    @cached_property
    def falls(self) -> bool | None:
        """Whether the video shows something fall off something; None where a viewer may be in doubt."""
        if self.related("falls_from"):
            return True
        return None if any(self.tips(thing) for thing in self.solids) else False
