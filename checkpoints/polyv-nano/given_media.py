# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""What callers hand over: telling one medium from a list of them, and reading the content of conversations."""

import os
from collections.abc import Callable, Iterator
from numbers import Real
from typing import Any

import numpy as np
import torch
from PIL import Image

from .posed_views import PosedViews


_IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
# Under which keys an entry of each type may hold what it shows.
_KEYS = {
    "text": {"path", "url"},  # of no meaning to us, as are all other keys
    "image": {"image", "path", "url", "base64"},
    "image_url": {"image_url"},
    "video": {"video", "path", "url"},
    "scene": {"scene", "path", "url"},
}


def flatten(media: Any, is_one: Callable[[Any], bool]) -> list:
    """One medium, a list, or a list per sample → a flat list."""
    if media is None:
        return []
    if is_one(media):
        return [media]
    if not isinstance(media, (list, tuple, np.ndarray, torch.Tensor)):
        raise TypeError(
            f"media: got {type(media).__name__}, expected a path, a picture, an array, PosedViews, or a list."
        )
    return [one for part in media for one in flatten(part, is_one)]


def check_counts(name: str, media: Any, is_one: Callable[[Any], bool], token: str, placeholders: list[int]) -> None:
    """Refuse media that are more or fewer than the `placeholders` of each text: in all where they come as a flat list,
    text by text where they come as a list per sample.

    Raises:
        ValueError: they are, or there are not as many lists as texts.
    """
    given, found = len(flatten(media, is_one)), sum(placeholders)
    mend = "Give as many media as placeholders, in their order."
    if media is None or is_one(media) or all(part is None or is_one(part) for part in media):
        if given != found:
            raise ValueError(f"{name}: got {given}, but the text holds {found} {token} placeholder(s). {mend}")
        return
    if len(media) != len(placeholders):
        raise ValueError(
            f"{name}: got {len(media)} lists for {len(placeholders)} text(s). Give one list a text, empty where it has "
            "no placeholder, or one flat list for all."
        )
    for index, (part, found) in enumerate(zip(media, placeholders, strict=True)):
        given = len(flatten(part, is_one))
        if given != found:
            raise ValueError(
                f"{name}[{index}]: got {given}, but text[{index}] holds {found} {token} placeholder(s). {mend}"
            )


def is_file(medium: Any) -> bool:
    return isinstance(medium, (str, bytes, os.PathLike))


def is_image(medium: Any) -> bool:
    return is_file(medium) or isinstance(medium, Image.Image) or getattr(medium, "ndim", 4) <= 3


def is_video(medium: Any) -> bool:
    """A list is one video if it holds frames; several file names are frames if all of them are names of pictures."""
    if not isinstance(medium, (list, tuple)):
        return is_file(medium) or getattr(medium, "ndim", 5) <= 4
    if medium and all(is_file(frame) for frame in medium):
        return len(medium) > 1 and all(str(frame).lower().endswith(_IMAGE_SUFFIXES) for frame in medium)
    return bool(medium) and all(not is_file(frame) and is_image(frame) for frame in medium)


def is_scene(medium: Any) -> bool:
    return isinstance(medium, PosedViews) or is_file(medium)


def content_entries(conversation: Any) -> Iterator[dict[str, Any]]:
    """The content entries of one conversation, or of a batch of them.

    Raises:
        ValueError: a conversation is empty, or an entry has no type, an unknown one, or one that is not its medium's.
    """
    if isinstance(conversation, (list, tuple)) and not conversation:
        raise ValueError("conversation: it is empty, expected at least one message {'role': …, 'content': …}.")
    for message in conversation:
        if isinstance(message, (list, tuple)) or hasattr(message, "content"):
            yield from content_entries(message)
        elif isinstance(message.get("content"), (list, tuple)):
            for entry in message["content"]:
                if isinstance(entry, dict):
                    _check_entry(entry)
                    yield entry


def _check_entry(entry: dict[str, Any]) -> None:
    kind = entry.get("type")
    media = {key for key in set().union(*_KEYS.values()) if entry.get(key) is not None}
    if kind is None or (media and not media & _KEYS.get(kind, set())):
        held = f"holds {' and '.join(map(repr, sorted(media)))}" if media else f"has the keys {sorted(entry)}"
        raise ValueError(
            f"conversation: a content entry of type {kind!r} {held}. Expected {{'type': 'text', 'text': …}}, or a type of "
            "'image', 'video' or 'scene' with the medium under a key of that name."
        )


def scene_source(entry: dict[str, Any]) -> Any:
    for key in ("scene", "path", "url"):
        if entry.get(key) is not None:
            return entry[key]
    raise ValueError(
        f"scene: a content entry with keys {sorted(entry)} names none. Expected {{'type': 'scene', 'scene': …}}."
    )


def check_positive(name: str, value: Any) -> None:
    """Refuse what is given, but is no number above 0."""
    if value is not None and not (isinstance(value, Real) and 0 < float(value) < float("inf")):
        raise ValueError(f"{name}={value!r}: expected a number above 0. Leave it out for the default.")
