# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""How the objects of a scene show in its pictures, as far as the graph tells, or why a question about it is ill-posed."""

from collections.abc import Callable
from itertools import pairwise
from typing import Literal, TypeVar

import numpy as np

from polyv.csqa import sight
from polyv.csqa.programs import Picture
from polyv.csqa.records import Appearance, Camera, SceneObject, SceneRecord


# Frames between the moments at which two objects come into view, or go out of it.
_FRAMES_APART = 3
# Frames for which an object must be away to have gone out of view.
_AWAY = 2
# Seconds between frames, of which one may tell what is so in between.
_GAP = 0.5

_Value = TypeVar("_Value")
Comparison = Callable[[SceneObject, SceneObject], bool]


class IllPosedError(ValueError):
    """A question that the scene has no certain answer to.

    Attributes:
        cause: why not, without the details of this scene.
    """

    def __init__(self, cause: str, *details: object):
        super().__init__(cause.format(*details))
        self.cause = cause


class Looks:
    """The pictures of one scene. `used_views` gathers the posed views that were looked at."""

    def __init__(self, record: SceneRecord):
        self.record = record
        self.used_views: dict[int, None] = {}

    def look(self, thing: SceneObject, at: Picture) -> Appearance:
        """How an object shows in a picture. IllPosedError where that is not known."""
        if at == "image":
            return known(thing.in_image, "in_image", thing)
        looks = thing.in_views if isinstance(at, int) else thing.in_video
        index = at if isinstance(at, int) else 0 if at == "start" else -1
        if not -len(looks) <= index < len(looks):
            raise IllPosedError("how {} shows at {} is not known", thing.name, at)
        if isinstance(at, int):
            self.used_views.setdefault(at)
        if not isinstance(at, int) and not self._is_told_at(at):
            raise IllPosedError("nothing is told of the {} of the video", at)
        return known(looks[index], f"look in the {at} frame", thing)

    def clear(self, thing: SceneObject, at: Picture) -> Appearance:
        """The same. IllPosedError, too, where the object is not in plain view."""
        look = self.look(thing, at)
        if not sight.is_clear(look, self.camera_or_none(at)):
            raise IllPosedError("{} is not in plain view at {}", thing.name, at)
        return look

    def camera_or_none(self, at: Picture) -> Camera | None:
        """The camera of a picture, if it is known."""
        if at == "image":
            return self.record.image_camera
        if isinstance(at, int):
            return self.record.view_cameras[at] if at < len(self.record.view_cameras) else None
        return self._video_camera(0 if at == "start" else -1)

    def camera(self, at: Picture) -> Camera:
        """The same. IllPosedError where it is not known."""
        camera = self.camera_or_none(at)
        if camera is None:
            raise IllPosedError("the camera of {} is not known", at)
        if isinstance(at, int):
            self.used_views.setdefault(at)
        return camera

    def is_clear_in(self, thing: SceneObject, medium: str) -> bool:
        """Whether an object is in plain view in the "image", in two frames of the "video" or a view of the "scene".

        Of what was annotated without boxes, somebody saw it in the video or the scene; in the image it may not show.
        """
        if medium == "image":
            return sight.is_clear(thing.in_image, self.record.image_camera)
        if not (thing.in_views if medium == "scene" else thing.in_video):
            return True
        if medium == "scene":
            return any(sight.is_clear(look, self.camera_or_none(i)) for i, look in enumerate(thing.in_views))
        return self._states(thing).count("in") > 1

    def seen_later(self, things: list[SceneObject]) -> Comparison:
        """Whether one comes into view later than another: the first sign of it, after the other was in plain view."""
        seen = {thing.id: (self._first(thing, "in"), self._first(thing, "in", "partly")) for thing in things}
        return lambda one, other: seen[one.id][1] - seen[other.id][0] >= _FRAMES_APART

    def seen_longer(self, things: list[SceneObject]) -> Comparison:
        """Whether one is last in plain view after the last sign of another."""
        seen = {thing.id: (self._last(thing, "in"), self._last(thing, "in", "partly")) for thing in things}
        return lambda one, other: seen[one.id][0] - seen[other.id][1] >= _FRAMES_APART

    def reappears(self, thing: SceneObject) -> bool:
        """Whether it goes out of view and comes back. IllPosedError where it is, or may be, away for a moment only."""
        if any(after - before > _GAP for before, after in pairwise(self.record.times or ())):
            raise IllPosedError("what happens between the frames that are told of is not known")
        states = self._states(thing)[self._first(thing, "in") : self._last(thing, "in")]
        away = longest = 0
        for state in states:
            away = away + 1 if state == "out" else 0
            longest = max(longest, away)
        if 0 < longest < _AWAY:
            raise IllPosedError("{} is out of view for a moment only", thing.name)
        return longest > 0

    def _is_told_at(self, at: Literal["start", "end"]) -> bool:
        times, last = self.record.times, self.last_second()
        if times is None or last is None:
            return True
        return times[0] <= _GAP if at == "start" else last - times[-1] <= _GAP

    def last_second(self) -> float | None:
        """When the video ends, if that is known."""
        record = self.record
        if record.duration is not None:
            return record.duration
        if record.times:
            return record.times[-1]
        frames = max((max(len(thing.track), len(thing.in_video)) for thing in record.objects), default=0)
        return record.seconds(frames - 1) if record.fps and frames else None

    def image_second(self) -> float | None:
        """When in the video the image was taken, if it is one of its frames and that is known."""
        frame, fps = self.record.media.image_frame, self.record.fps
        return None if frame is None or fps is None else frame / fps

    def _video_camera(self, index: int) -> Camera | None:
        cameras = self.record.video_cameras
        if not cameras:
            return self.record.image_camera
        return cameras[index if len(cameras) > 1 else 0]

    def _states(self, thing: SceneObject) -> list[str]:
        """Of each frame: in plain view, out of view, or neither for sure."""
        return [
            "in"
            if sight.is_clear(look, self._video_camera(i))
            else "out"
            if look and sight.is_hidden(look)
            else "partly"
            for i, look in enumerate(thing.in_video)
        ]

    def _first(self, thing: SceneObject, *states: str) -> int:
        frames = [i for i, state in enumerate(self._states(thing)) if state in states]
        if not frames:
            raise IllPosedError("{} is never in plain view in the video", thing.name)
        return frames[0]

    def _last(self, thing: SceneObject, *states: str) -> int:
        frames = [i for i, state in enumerate(self._states(thing)) if state in states]
        if not frames:
            raise IllPosedError("{} is never in plain view in the video", thing.name)
        return frames[-1]


def box(thing: SceneObject) -> tuple[np.ndarray, np.ndarray]:
    """An object's centre and half its size, metres."""
    centre, extent = known(thing.position, "position", thing), known(thing.extent, "extent", thing)
    return np.asarray(centre), np.asarray(extent) / 2


def known(value: _Value | None, what: str, thing: SceneObject) -> _Value:
    """The value, if the graph tells it. IllPosedError if not."""
    if value is None:
        raise IllPosedError("the {} of {} is not known", what, thing.name)
    return value


def sure(value: str | None, why_not: str) -> str:
    """The word, if there is a certain one. IllPosedError if not."""
    if value is None:
        raise IllPosedError(why_not)
    return value
