# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""Captions: each visible object's colour, shape, size and place in the picture, and nothing else.

Never depth, distance or motion: those are what the backbone must not be told. A video's caption speaks of its first
frame, a scene's of its first view. Two styles, because each teaches what the other does not: sentences with nine
places (objects from left to right), and a list with the square of an 8×8 board (objects in random order).
"""

from collections.abc import Sequence

import numpy as np

from polyv.csqa.sight import box_centre, is_clear
from polyv.world.records import Appearance, Camera, WorldObject, WorldRecord
from polyv.world.templates import article


GRID = 8

_COLUMNS = ("left", "centre", "right")
_ROWS = ("upper", "middle", "lower")

_ASK = {
    "image": ("Describe the picture.", "What is in the picture, and where?"),
    "video": ("Describe the first frame of the video.", "What does the video's first frame show, and where?"),
    "scene": ("Describe the first view of the scene.", "What does the first view of the scene show, and where?"),
}
# Squares are named as on a chessboard, from the top left: two tokens a place, where "column 7, row 4" takes eight.
_ASK_SQUARES = {
    "image": "Name the square of each object in the picture.",
    "video": "Name the square of each object in the video's first frame.",
    "scene": "Name the square of each object in the first view of the scene.",
}
_OPENINGS = {
    "image": ("The picture shows", "There is"),
    "video": ("The first frame shows", "In the first frame there is"),
    "scene": ("The first view shows", "In the first view there is"),
}


def captions(record: WorldRecord, rng: np.random.Generator) -> list[tuple[tuple[str, str], str, str]]:
    """((kind of medium, path), request, caption) of all that a scene can be described by.

    The image, the video and the scene get one caption of each style. The image from the moved camera and each of the
    scene's views, taken as a picture of its own, get one of either style: the same objects from eight directions, for
    no more rendering. A medium in which some object is half hidden is described by what is clear in it; one without
    any clear object has no caption.
    """
    media, both = record.media, ("sentence", "squares")
    shots: list[tuple[str, str, Camera, list[Appearance], tuple[str, ...]]] = [
        ("image", media.image, record.image_camera, [thing.in_image for thing in record.objects], both),
        ("video", media.video, record.video_cameras[0], [thing.in_video[0] for thing in record.objects], both),
        ("scene", media.scene, record.view_cameras[0], [thing.in_views[0] for thing in record.objects], both),
    ]
    _, *stills = record.stills()  # the image itself has both styles, above
    shots += [("image", path, camera, looks, (both[rng.integers(2)],)) for path, camera, looks in stills]

    written = []
    for kind, path, camera, looks, styles in shots:
        clear = [(t, look) for t, look in zip(record.objects, looks, strict=True) if is_clear(look, camera)]
        if not clear:
            continue
        if "sentence" in styles:
            request = _ASK[kind][rng.integers(len(_ASK[kind]))]
            opening = _OPENINGS[kind][rng.integers(len(_OPENINGS[kind]))]
            written.append(((kind, path), request, _sentence(clear, camera, opening)))
        if "squares" in styles:
            shuffled = [clear[i] for i in rng.permutation(len(clear))]
            written.append(((kind, path), _ASK_SQUARES[kind], _squares(shuffled, camera)))
    return written


def place(look: Appearance, camera: Camera, bins: int) -> tuple[int, int]:
    """(column, row) of the box's middle among `bins`×`bins` cells of the picture, 0 at the left and at the top."""
    x, y = box_centre(look)
    column, row = int(bins * x / camera.width), int(bins * y / camera.height)
    return min(max(column, 0), bins - 1), min(max(row, 0), bins - 1)


def place_words(look: Appearance, camera: Camera) -> str:
    """Place in the picture as one of nine phrases: "at the upper left", "in the centre", "at the bottom"."""
    column, row = place(look, camera, 3)
    if column == 1:
        return ("at the top", "in the centre", "at the bottom")[row]
    return f"at the {_COLUMNS[column]}" if row == 1 else f"at the {_ROWS[row]} {_COLUMNS[column]}"


def describe(thing: WorldObject) -> str:
    """Size, colour and shape, as in "small red ball"."""
    size = thing.attributes.get("size", "")
    return f"{size} {thing.name}".strip()


def _sentence(clear: Sequence[tuple[WorldObject, Appearance]], camera: Camera, opening: str) -> str:
    in_order = sorted(clear, key=lambda item: box_centre(item[1]))
    parts = [f"{article(describe(thing))} {place_words(look, camera)}" for thing, look in in_order]
    listed = parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
    return f"{opening} {listed}."


def _squares(clear: Sequence[tuple[WorldObject, Appearance]], camera: Camera) -> str:
    parts = []
    for thing, look in clear:
        column, row = place(look, camera, GRID)
        parts.append(f"{describe(thing)} {'abcdefgh'[column]}{row + 1}")
    return f"{', '.join(parts)}."
