# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""Scene graphs of the simulated world: those of `polyv.csqa.records`, of which everything is known.

Units and axes are those given there; the floor is z = 0.
"""

from typing import Literal

from polyv.csqa.records import Appearance, Box, Camera, Media, Relation, SceneObject, SceneRecord, Vector


class WorldObject(SceneObject):
    """One object. `in_moved` is how it shows in the image from the moved camera."""

    position: Vector
    extent: Vector
    in_image: Appearance
    in_video: tuple[Appearance, ...] = ()
    in_moved: Appearance


class WorldRelation(Relation):
    """ "on" (rests on, at time 0), "hits", "falls_from", "rolls_down" or "moves", which takes no object."""

    predicate: Literal["on", "hits", "falls_from", "rolls_down", "moves"]


class WorldMedia(Media):
    """Where the content lies as files, relative to the folder of the split. `moved` is the image from the moved camera."""

    image: str
    moved: str
    video: str
    scene: str


class WorldRecord(SceneRecord):
    """One scene graph: the same content as an image, a video and posed RGB-D views.

    The image is video time 0 seen by `image_camera`; the posed views show time 0 as well. `video_cameras` holds
    one camera a frame: the same one throughout where things move, a fly-through where nothing does.
    `moved_camera` differs from `image_camera` by one of six motions, named in `camera_motion`.
    """

    source: str = "world"
    seed: int
    layout: str
    fps: float
    objects: tuple[WorldObject, ...]
    relations: tuple[WorldRelation, ...]
    media: WorldMedia
    image_camera: Camera
    moved_camera: Camera
    camera_motion: Literal["left", "right", "up", "down", "forward", "backward"]

    def stills(self) -> list[tuple[str, Camera, list[Appearance]]]:
        """All pictures of the scene at time 0: the image, the one from the moved camera, and each view. Of each its
        path (as in `media`), its camera, and how every object shows in it."""
        things, media = self.objects, self.media
        shots = [
            (media.image, self.image_camera, [thing.in_image for thing in things]),
            (media.moved, self.moved_camera, [thing.in_moved for thing in things]),
        ]
        for view, camera in enumerate(self.view_cameras):
            path = f"{media.scene}/color/{view}.png"
            shots.append((path, camera, [thing.in_views[view] for thing in things]))
        return shots

    def with_image(self, path: str, camera: Camera, looks: list[Appearance]) -> "WorldRecord":
        """The same scene with another of its `stills` as the image, so that whatever is asked of an image can be
        asked of that one."""
        shown = (thing.model_copy(update={"in_image": look}) for thing, look in zip(self.objects, looks, strict=True))
        media = self.media.model_copy(update={"image": path})
        return self.model_copy(update={"objects": tuple(shown), "media": media, "image_camera": camera})


__all__ = ["Appearance", "Box", "Camera", "Vector", "WorldMedia", "WorldObject", "WorldRecord", "WorldRelation"]
