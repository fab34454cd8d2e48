# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""Scene graphs: what is in a scene, where, when, and seen from which camera.

Units and axes everywhere: seconds, metres, pixels; OpenCV cameras (x right, y down, z forward) with
camera-to-world poses; the world's z axis points up and its floor is z = 0.
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict


Vector = tuple[float, float, float]
Box = tuple[float, float, float, float]


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Camera(_Record):
    """One pinhole camera. `pose` is camera-to-world, row-major 4×4; `intrinsics` is row-major 3×3 in pixels."""

    pose: tuple[tuple[float, float, float, float], ...]
    intrinsics: tuple[Vector, ...]
    width: int
    height: int


class Appearance(_Record):
    """How an object shows in one picture: its box (x0, y0, x1, y1 as PIL crops, of its visible part; None where it is
    not seen), and its visible pixels as a fraction of its whole silhouette: what hides it and the picture's edge both
    lower it."""

    box: Box | None
    visible: float


class SceneObject(_Record):
    """One object. `position` is its centre and `extent` its full size along world axes at time 0.

    `track` holds its centre at each video frame (length = number of frames). `in_image`, `in_moved`, `in_video`
    and `in_views` say how it shows in the image, in the image from the moved camera, in each video frame and in
    each posed view.
    """

    id: str
    category: str
    attributes: dict[str, str]
    position: Vector
    extent: Vector
    track: tuple[Vector, ...]
    in_image: Appearance
    in_moved: Appearance
    in_video: tuple[Appearance, ...]
    in_views: tuple[Appearance, ...]

    @property
    def name(self) -> str:
        """How questions call it: colour and shape, as in "red ball"."""
        return f"{self.attributes['colour']} {self.category}"


class Relation(_Record):
    """`subject` `predicate` `object`, from `start` to `end` seconds of the video (None: it holds throughout).

    World predicates: "on" (rests on, at time 0), "hits", "falls_from", "rolls_down", "moves".
    `object` is None where the predicate takes none ("moves").
    """

    subject: str
    predicate: Literal["on", "hits", "falls_from", "rolls_down", "moves"]
    object: str | None
    start: float | None = None
    end: float | None = None


class Media(_Record):
    """Where the content lies as files, relative to the folder of the split."""

    image: str
    moved: str
    video: str
    scene: str


class SceneRecord(_Record):
    """One scene graph: the same content as an image, a video and posed RGB-D views.

    The image is video time 0 seen by `image_camera`; the posed views show time 0 as well. `video_cameras` holds
    one camera a frame: the same one throughout where things move, a fly-through where nothing does.
    `moved_camera` differs from `image_camera` by one of six motions, named in `camera_motion`.
    """

    scene_id: str
    split: Literal["train", "validation", "test"]
    seed: int
    layout: str
    fps: float
    objects: tuple[SceneObject, ...]
    relations: tuple[Relation, ...]
    media: Media
    image_camera: Camera
    moved_camera: Camera
    camera_motion: Literal["left", "right", "up", "down", "forward", "backward"]
    video_cameras: tuple[Camera, ...]
    view_cameras: tuple[Camera, ...]

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

    def with_image(self, path: str, camera: Camera, looks: list[Appearance]) -> "SceneRecord":
        """The same scene with another of its `stills` as the image, so that whatever is asked of an image can be
        asked of that one."""
        shown = (thing.model_copy(update={"in_image": look}) for thing, look in zip(self.objects, looks, strict=True))
        media = self.media.model_copy(update={"image": path})
        return self.model_copy(update={"objects": tuple(shown), "media": media, "image_camera": camera})
