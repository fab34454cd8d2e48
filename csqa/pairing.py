# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""Gives a scene that has no picture of its own one: a frame of its video, or one of its views."""

from collections import Counter

from polyv.csqa import sight
from polyv.csqa.records import Camera, SceneRecord


def with_image(record: SceneRecord) -> SceneRecord:
    """The record, with an image of that frame, or else that view, in which most objects are in plain view.

    Of the objects that questions can ask about: those that have a name to themselves and are no fixtures. Of frames with as
    many, it is the first. The record itself where it has an image, or where nothing is told of where its objects show.
    """
    names = Counter(thing.name for thing in record.objects)
    asked = [thing for thing in record.objects if names[thing.name] == 1 and not thing.fixture]
    media = record.media
    if media.image is not None or not asked:
        return record
    of_video = media.video is not None and bool(record.fps) and any(thing.in_video for thing in asked)
    if of_video:
        looks, cameras = {thing.id: thing.in_video for thing in record.objects}, record.video_cameras
    elif media.scene is not None and any(thing.in_views for thing in asked):
        looks, cameras = {thing.id: thing.in_views for thing in record.objects}, record.view_cameras
    else:
        return record
    clear = Counter[int]()
    for thing in asked:
        for index, look in enumerate(looks[thing.id]):
            clear[index] += sight.is_clear(look, _camera(cameras, index))
    best = max(sorted(clear), key=clear.__getitem__)
    if not clear[best]:
        return record
    chosen: dict[str, str | int | None] = {"image": media.scene, "image_view": best}
    if of_video:
        chosen = {"image": media.video, "image_frame": round(record.seconds(best) * (record.fps or 0))}
    objects = tuple(
        thing.model_copy(update={"in_image": looks[thing.id][best] if looks[thing.id] else None})
        for thing in record.objects
    )
    return record.model_copy(
        update={"media": media.model_copy(update=chosen), "objects": objects, "image_camera": _camera(cameras, best)}
    )


def _camera(cameras: tuple[Camera, ...], index: int) -> Camera | None:
    return cameras[index if len(cameras) > 1 else 0] if cameras else None


__all__ = ["with_image"]
